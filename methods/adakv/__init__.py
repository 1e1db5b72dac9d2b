"""AdaKV: the KV heads of a layer share one budget, and those that attend widely get more of it."""
