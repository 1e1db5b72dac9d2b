"""How many words make a prompt of so many tokens, found in a few batched calls of the tokenizer.

Tokens grow nearly in proportion to words, so that a secant inside a bracket lands after two or three rounds; each later round probes a
count and its successor, which closes the bracket as soon as the guess is right. Bisection takes over where a tokenizer is less regular.
"""

from collections.abc import Callable, Sequence

Count = Callable[[Sequence[str]], Sequence[int]]
Prompt = Callable[[int], str]

SECANT_ROUNDS = 8


class _Search:
    """One prompt's bracket: ``low`` words fit, ``high`` do not. ``low`` is None where not even a prompt without words fits."""

    def __init__(self, prompt: Prompt, empty: int, limit: int) -> None:
        self.prompt = prompt
        self.empty = empty
        self.low: int | None = 0 if empty <= limit else None
        self.low_tokens = empty
        # As many words as tokens never fit: each word is a token or more, and the prompt without words has some.
        self.high = max(2, limit)
        self.slope = 1.3
        """Tokens a word, as last seen."""

    def probes(self, limit: int, rounds: int) -> tuple[int, ...]:
        """Which numbers of words to count next; none once the bracket is closed."""
        if self.low is None or self.high - self.low <= 1:
            return ()
        if rounds >= SECANT_ROUNDS:
            return ((self.low + self.high) // 2,)
        wanted = self.low + int((limit - self.low_tokens) / self.slope)
        words = min(max(wanted, self.low + 1), self.high - 1)
        return (words, words + 1) if rounds and words + 1 < self.high else (words,)

    def note(self, words: int, tokens: int, limit: int) -> None:
        """Take in a count."""
        self.slope = max((tokens - self.empty) / words, 1e-6)
        if tokens <= limit and (self.low is None or words > self.low):
            self.low, self.low_tokens = words, tokens
        elif tokens > limit and words < self.high:
            self.high = words


def fit(prompts: Sequence[Prompt], limit: int, count: Count) -> list[int | None]:
    """Return for each prompt a number of words with which it has at most ``limit`` tokens, and with one word more has more.

    ``prompts[i](words)`` is the whole text; ``count`` gives the tokens of texts. None where even a prompt without words is too long.
    Costs two calls, and usually three to five more for all prompts together.
    """
    searches = [_Search(prompt, tokens, limit) for prompt, tokens in zip(prompts, count([prompt(0) for prompt in prompts]), strict=True)]
    rounds = 0
    while probes := [(search, words) for search in searches for words in search.probes(limit, rounds)]:
        tokens = count([search.prompt(words) for search, words in probes])
        for (search, words), found in zip(probes, tokens, strict=True):
            search.note(words, found, limit)
        rounds += 1
    return [search.low for search in searches]
