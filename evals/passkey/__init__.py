"""Pass keys hidden at given depths of generated text: can a method still give back one exact fact from anywhere in a long prompt?"""

from .eval import EVAL

__all__ = ["EVAL"]
