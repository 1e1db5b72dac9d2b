"""Text that says nothing about any needle: as many words as wanted, of sentences made here, the same on every machine.

A sentence is a pattern whose gaps are filled from word lists; which pattern and which words follow from SHA-256 of (tag, number
of the sentence), so that no generator's state, platform or Python version has a say. More than 10^7 different sentences can come out,
none holds a digit, and none speaks of keys or passing.
"""

import bisect
import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence

PEOPLE = (
    "baker", "farmer", "teacher", "sailor", "painter", "gardener", "doctor", "carpenter", "singer", "driver", "miller", "tailor", "potter",
    "shepherd", "librarian", "fisherman", "weaver", "cook", "clerk", "neighbor", "student", "traveler", "musician", "photographer",
    "engineer", "nurse", "grocer", "florist", "beekeeper", "blacksmith",
)  # fmt: skip
KINDS = (
    "tall", "young", "quiet", "cheerful", "patient", "tired", "careful", "friendly", "proud", "curious", "gentle", "busy", "clever", "shy",
    "loyal", "kind", "restless", "thoughtful", "stubborn", "modest",
)  # fmt: skip
THINGS = (
    "basket", "lantern", "blanket", "ladder", "kettle", "violin", "map", "letter", "clock", "boat", "chair", "table", "bicycle", "bucket",
    "mirror", "coat", "drum", "bottle", "rope", "wagon", "bell", "book", "hammer", "picture", "carpet", "kite", "candle", "jar", "saddle",
    "piano", "shovel", "teapot",
)  # fmt: skip
LOOKS = (
    "small", "large", "red", "blue", "green", "wooden", "broken", "heavy", "new", "plain", "bright", "dusty", "yellow", "narrow", "round",
    "painted", "worn", "borrowed", "silver", "beautiful",
)  # fmt: skip
PLACES = (
    "market", "river", "harbor", "garden", "church", "station", "bridge", "forest", "meadow", "library", "school", "hill", "valley", "lake",
    "orchard", "village", "square", "mill", "beach", "barn", "bakery", "park", "island", "theater", "workshop", "field", "well", "tower",
)  # fmt: skip
TIMES = (
    "in the morning", "after lunch", "before sunset", "late in the evening", "at noon", "on a rainy day", "early in spring", "last summer",
    "during the winter", "on Sunday", "on market day", "the next day", "after the storm", "in autumn", "before breakfast", "on holidays",
    "at the end of the month", "when the wind was calm", "once the snow had melted", "while the others slept",
)  # fmt: skip
DEEDS = (
    "carried", "found", "repaired", "sold", "bought", "cleaned", "painted", "borrowed", "lost", "moved", "watched", "admired", "described",
    "wanted", "kept", "brought", "dropped", "polished", "forgot", "measured", "drew", "returned", "traded", "mended",
)  # fmt: skip
PLANTS = (
    "roses", "tomatoes", "apples", "onions", "carrots", "pears", "beans", "tulips", "cherries", "potatoes", "grapes", "lilies", "herbs",
    "plums", "pumpkins", "sunflowers", "cabbages", "berries", "walnuts", "olives",
)  # fmt: skip
ANIMALS = (
    "dog", "cat", "horse", "goat", "sheep", "duck", "goose", "rabbit", "crow", "mule", "swan", "fox", "hen", "pony", "owl", "heron",
    "squirrel", "cow", "sparrow", "turtle",
)  # fmt: skip
MOODS = (
    "slowly", "quietly", "happily", "carefully", "without a word", "with a smile", "in a hurry", "with great care", "for a long time",
    "as usual", "against all advice", "to everyone's surprise", "with some help", "for no reason", "all alone", "together with a friend",
)  # fmt: skip
SKIES = (
    "the sky was clear", "a light rain fell", "the wind blew from the west", "fog covered the road", "the sun was warm",
    "snow lay on the roofs", "the clouds were low", "the air smelled of smoke", "the moon was bright", "thunder rolled far away",
    "the streets were empty", "the bells were ringing", "the leaves had turned brown", "the water was high", "birds were singing",
    "the shops had closed",
)  # fmt: skip

GAPS = {
    "person": PEOPLE, "kind": KINDS, "thing": THINGS, "look": LOOKS, "place": PLACES, "time": TIMES, "deed": DEEDS, "plants": PLANTS,
    "animal": ANIMALS, "mood": MOODS, "sky": SKIES,
}  # fmt: skip

PATTERNS = (
    "The {kind} {person} {deed} the {look} {thing} near the {place} {time}.",
    "A {kind} {person} {deed} a {look} {thing} and went back to the {place} {mood}.",
    "Behind the {place} the {person} grows {plants} and the most {kind} {animal} in the region sleeps there {time}.",
    "They say that {sky} when the {person} {deed} the {thing} at the {place}.",
    "Nobody at the {place} knew why the {kind} {person} {deed} the {look} {thing}.",
    "The {animal} followed the {person} from the {place} to the {place} {mood}.",
    "It was quiet at the {place}, {sky}, and the {person} {deed} a {thing} {mood}.",
    "The {look} {thing} stood beside the {look} {thing} until the {person} {deed} it {time}.",
    "Many people visit the {place} to look at the {plants} and to feed the {animal}.",
    "My aunt once met a {kind} {person} who {deed} every {thing} at the {place}.",
    "Between the {place} and the {place} there is a field of {plants} where a {kind} {animal} lives.",
    "The {person} and the {person} talked about the {look} {thing} {time}.",
    "Because {sky}, the {kind} {person} stayed at the {place} and {deed} the {thing}.",
    "There was a {look} {thing} by the {place}, and a {kind} {animal} sat on it {mood}.",
    "The {plants} from the {place} were better than the {plants} that the {person} brought {time}.",
    "Children ran across the {place} {mood} while the {person} {deed} a {look} {thing}.",
    "The {kind} {animal} liked {plants} so much that the {person} hid them in a {thing}.",
    "Later the {person} wrote about the {place}, the {look} {thing} and the {animal}.",
    "Some of the {plants} were given to the {kind} {person} who {deed} the {thing} {mood}.",
    "At the {place} {sky}, and no {person} was to be seen {time}.",
    "The {person} asked whether the {animal} had really slept on the {look} {thing} {time}.",
    "With the {look} {thing} under one arm, the {person} walked {mood} towards the {place}.",
    "People still remember how the {kind} {person} {deed} the {plants} of the whole {place}.",
    "The road to the {place} is long, but the {person} took a {thing} along and {sky}.",
)

_GAP = re.compile(r"\{(\w+)\}")


def draw(tag: str) -> int:
    """Return a number below 2**256 that follows from ``tag`` alone."""
    return int.from_bytes(hashlib.sha256(tag.encode()).digest(), "big")


def sentences(tag: str) -> Iterator[str]:
    """Yield sentences without end; the same tag gives the same ones."""
    number = 0
    while True:
        rest, which = divmod(draw(f"{tag}/sentence/{number}"), len(PATTERNS))

        def word(gap: re.Match[str]) -> str:
            nonlocal rest
            rest, index = divmod(rest, len(GAPS[gap[1]]))
            return GAPS[gap[1]][index]

        yield _GAP.sub(word, PATTERNS[which])
        number += 1


def haystack(tag: str, words: int) -> list[str]:
    """Return sentences of exactly ``words`` words in all; a longer haystack of the same tag begins with the same whole sentences."""
    return take(sentences(tag), words)


def take(source: Iterator[str], words: int) -> list[str]:
    """Return the first sentences, of exactly ``words`` words in all as ``str.split`` counts them; the last is broken off if need be."""
    taken: list[str] = []
    left = words
    while left > 0:
        parts = next(source).split()
        if len(parts) > left:
            parts = parts[:left]
            parts[-1] = parts[-1].rstrip(",.") + "."
        taken.append(" ".join(parts))
        left -= len(parts)
    return taken


def insert(lines: list[str], needle: str, depth: float) -> str:
    """Join the sentences with the needle between two of them: as near as can be to ``depth`` of the words before it, earlier on a tie."""
    return weave(lines, [(depth, needle)])


def weave(lines: Sequence[str], needles: Sequence[tuple[float, str]]) -> str:
    """Join the sentences with needles between them, each (depth, needle) as ``insert`` does; needles of one place keep their order."""
    borders = [0, *itertools.accumulate(len(line.split()) for line in lines)]
    placed: dict[int, list[str]] = {}
    for depth, needle in needles:
        target = depth * borders[-1]
        after = min(bisect.bisect_left(borders, target), len(lines))
        border = after - 1 if after and target - borders[after - 1] <= borders[after] - target else after
        placed.setdefault(border, []).append(needle)
    pieces = [[*placed.get(number, ()), line] for number, line in enumerate([*lines, ""])]
    return " ".join(piece for group in pieces for piece in group if piece)
