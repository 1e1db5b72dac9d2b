"""Essays as background, and needles put into it. A word is a run of anything but white space with the white space after it."""

import itertools
import re
from collections.abc import Sequence

from .material import Essay

WORD = re.compile(r"\S+\s*")


class Background:
    """Essays one after the other, from the first again after the last."""

    def __init__(self, essays: Sequence[Essay]) -> None:
        self.essays = tuple(essays)
        self.counts = [len(WORD.findall(essay.text)) for essay in self.essays]

    def words(self, wanted: int) -> tuple[list[str], tuple[str, ...]]:
        """Return exactly ``wanted`` words, each with the white space after it but the last, and the names of the essays they come from.

        Nothing stands between two essays, so that the last word of one and the first of the next are often one word.
        """
        texts: list[str] = []
        names: list[str] = []
        have = 0
        for essay, count in itertools.cycle(zip(self.essays, self.counts, strict=True)):
            glued = bool(texts) and not texts[-1][-1:].isspace() and not essay.text[:1].isspace()
            texts.append(essay.text)
            names.append(essay.name)
            have += count - glued
            if have >= wanted:
                break
        found = WORD.findall("".join(texts))[:wanted]
        found[-1] = found[-1].strip()
        return found, tuple(names)


def insert(words: Sequence[str], needles: Sequence[tuple[float, str]]) -> tuple[str, str]:
    """Return the text before the first needle, and everything from there; (depth, needle) in ascending order of depth.

    A needle of depth d stands before word int(number of words * d). Stretches of text are stripped and joined with the needles and a last
    empty text by single blanks: there is a blank first where a needle stands at the very beginning, and always one at the end.
    """
    borders = [0, *(int(len(words) * depth) for depth, _ in needles), len(words)]
    stretches = ["".join(words[start:end]).strip() for start, end in itertools.pairwise(borders)]
    texts = [text for pair in zip(stretches, [*(needle for _, needle in needles), ""], strict=True) for text in pair]
    return stretches[0], " ".join(texts)[len(stretches[0]) :]
