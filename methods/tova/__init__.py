"""TOVA: drop the entry to which the last query attends least."""
