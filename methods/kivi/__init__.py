"""KIVI: keys packed per channel, values per token."""
