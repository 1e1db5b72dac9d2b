"""Knorm: keep the entries whose keys are short."""
