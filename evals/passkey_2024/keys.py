"""Pass keys, and numbers of cities, drawn as the original draws them: one choice of Python's generator for each character."""

import random
import string
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

CANDIDATES = {"char": string.ascii_lowercase, "int": string.digits, "int_n_char": string.ascii_lowercase + string.digits}
"""What each character of a target is chosen from, by style."""
WRAPPERS = {"naked": "{}", "double_quotes": '"{}"', "code": "`{}`"}
"""How a target is written in the text."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What was drawn for one request: the key; with cities, all pairs, of which the first is asked for."""

    key: str
    pairs: tuple[tuple[str, str], ...] = ()


Draw = Callable[[random.Random], Drawn]


def pass_key(style: str, length: int) -> Draw:
    """Return what draws a pass key."""
    return lambda source: Drawn(key=target(source, style, length))


def city_numbers(style: str, length: int, distractors: int, cities: Sequence[str]) -> Draw:
    """Return what draws a city and its number, then the distractors; no city and no number comes twice."""

    def draw(source: random.Random) -> Drawn:
        names: list[str] = []
        numbers: list[str] = []
        for _ in range(distractors + 1):
            while (city := source.choice(cities)) in names:
                pass
            names.append(city)
            numbers.append(target(source, style, length, numbers))
        return Drawn(key=numbers[0], pairs=tuple(zip(names, numbers, strict=True)))

    return draw


def target(source: random.Random, style: str, length: int, taken: Collection[str] = ()) -> str:
    """Return ``length`` characters that are not among ``taken``."""
    while True:
        drawn = "".join(source.choice(CANDIDATES[style]) for _ in range(length))
        if drawn not in taken:
            return drawn
