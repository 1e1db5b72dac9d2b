"""Models: from what a person writes (``pypi:…``, ``hf:…``, ``path:…``, ``random:…``) to a folder of files with checksums."""

from .resolution import check, find, resolve

__all__ = ["check", "find", "resolve"]
