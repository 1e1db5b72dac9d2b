"""StreamingLLM: a few first tokens and a sliding window."""
