"""longctx: what long-context methods really save, and what they really cost.

In a checkout the sub-packages here are links to the folders at the top of the repository; in a wheel they are real folders.
"""

__version__ = "0.1.0"
