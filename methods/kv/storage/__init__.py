"""Ways to hold one layer's keys and values."""
