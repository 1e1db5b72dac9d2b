"""The thin runner inside every environment: reads a job, loads the model once, answers, writes, exits. Standard library at import."""
