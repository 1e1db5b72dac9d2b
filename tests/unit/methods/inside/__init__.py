"""Checks that run inside an environment, by its own Python and unittest alone: it has no pytest."""
