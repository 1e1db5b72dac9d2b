"""``longctx data``: fetches what evals read, lists and verifies it. What there is and what it must be stands in ``evals/sources.py``."""

from .fetch import fetch, folder_of, source

__all__ = ["fetch", "folder_of", "source"]
