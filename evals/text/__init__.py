"""What evals that make their own prompts share: text without a meaning, and prompts of a given length."""

from pathlib import Path

CODE = tuple(sorted(Path(__file__).parent.glob("*.py")))
"""These modules, for the ``code`` of evals that use them."""
