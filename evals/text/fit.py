"""How many words make a prompt of so many tokens, found in a few batched calls of the tokenizer.

Tokens grow nearly in proportion to words, so a line through what was counted last foretells the answer within a hundredth or two. Each
round counts just below and just above the forecast, which usually brackets the answer; where it does not, the next reaches twice as far.
"""

import math
from collections.abc import Callable, Sequence

Count = Callable[[Sequence[str]], Sequence[int]]
Prompt = Callable[[int], str]

TOKENS_A_WORD = 1.3
"""A first guess, for English."""
DOUBT = 0.02
"""How far a forecast may be off, as a share of the distance to the nearest count."""
FEW = 3
"""So many candidates are counted all at once."""


class _Search:
    """One prompt's bracket: ``low`` words fit, ``high`` do not. ``low`` is None where not even a prompt without words fits."""

    def __init__(self, prompt: Prompt, empty: int, limit: int) -> None:
        self.prompt = prompt
        self.empty = empty
        self.limit = limit
        self.low: int | None = 0 if empty <= limit else None
        self.low_tokens = empty
        # As many words as tokens never fit: each word is a token or more, and the prompt without words has some.
        self.high = max(2, limit)
        self.high_tokens: int | None = None
        self.slope = TOKENS_A_WORD

    def probes(self, rounds: int) -> tuple[int, ...]:
        """Which numbers of words to count next, all inside the bracket; none once it is closed."""
        if self.low is None or self.high - self.low <= 1:
            return ()
        if self.high - self.low - 1 <= FEW:
            return tuple(range(self.low + 1, self.high))
        slope = (self.high_tokens - self.low_tokens) / (self.high - self.low) if self.high_tokens is not None else self.slope
        centre = self.low + int((self.limit - self.low_tokens) / slope)
        if rounds == 0:
            return (min(max(centre, self.low + 1), self.high - 1),)
        near = centre - self.low if self.high_tokens is None else min(centre - self.low, self.high - centre)
        reach = max(2 ** (rounds - 1), math.ceil(DOUBT * near))
        if self.low < centre - reach and centre + reach < self.high:
            return (centre - reach, centre + reach)
        if self.high_tokens is None and centre + reach < self.high:
            return (centre + reach,)
        # The forecast is of no more use: thirds always end.
        third = (self.high - self.low) // 3
        return (self.low + third, self.high - third)

    def note(self, words: int, tokens: int) -> None:
        """Take in a count."""
        self.slope = max((tokens - self.empty) / words, 1e-6)
        if tokens <= self.limit and (self.low is None or words > self.low):
            self.low, self.low_tokens = words, tokens
        elif tokens > self.limit and words < self.high:
            self.high, self.high_tokens = words, tokens


def fit(prompts: Sequence[Prompt], limit: int, count: Count) -> list[int | None]:
    """Return for each prompt a number of words with which it has at most ``limit`` tokens, and with one word more has more.

    ``prompts[i](words)`` is the whole text; ``count`` gives the tokens of texts. None where even a prompt without words is too long.
    Usually costs five or six calls for all prompts together, which count each prompt about eight times.
    """
    searches = [_Search(prompt, tokens, limit) for prompt, tokens in zip(prompts, count([prompt(0) for prompt in prompts]), strict=True)]
    rounds = 0
    while probes := [(search, words) for search in searches for words in search.probes(rounds)]:
        tokens = count([search.prompt(words) for search, words in probes])
        for (search, words), found in zip(probes, tokens, strict=True):
            search.note(words, found)
        rounds += 1
    return [search.low for search in searches]
