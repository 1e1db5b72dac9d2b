"""H2O: keep the entries that got most attention, and the latest."""
