"""InfLLM: a window, first tokens, and blocks of what lies between, chosen by the queries at hand."""
