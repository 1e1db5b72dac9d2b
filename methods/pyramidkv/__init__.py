"""PyramidKV: more entries in lower layers, fewer in higher ones."""
