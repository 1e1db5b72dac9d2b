"""The library of the cache family: one model, one decode loop, many ways to hold keys and values."""
