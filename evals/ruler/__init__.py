"""RULER's needle variants (Hsieh et al., arXiv 2404.06654), made by our own code in our own words."""

from .eval import EVAL

__all__ = ["EVAL"]
