"""KeyDiff: keep the entries whose keys are unlike the others."""
