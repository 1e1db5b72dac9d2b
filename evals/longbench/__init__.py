"""LongBench v1 and LongBench-E (Bai et al., ACL 2024): do answers on real long texts survive what a method does to the cache?"""

from .eval import EVAL

__all__ = ["EVAL"]
