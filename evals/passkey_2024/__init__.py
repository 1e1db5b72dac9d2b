"""The 2024 benchmark's passkey test over Paul Graham's essays, request for request; wording, grid and essays are fetched, not kept here."""

from .eval import EVAL

__all__ = ["EVAL"]
