"""Names, numbers and words that needles are made of. Everything follows by hash from a tag.

A name is an adjective and a noun, ``quiet-lantern``. No adjective ends in another one and no noun begins with another one (as ``tired`` and
``red``, ``bellows`` and ``bell`` do), so that no name is found inside another one.
"""

import math
import random
import string
import uuid
from collections.abc import Callable

from ..text.haystack import draw

ADJECTIVES = (
    "quiet", "amber", "ancient", "blue", "bold", "brave", "brisk", "calm", "clever", "cosmic", "crimson", "curly", "daring", "dusty",
    "eager", "early", "elegant", "faint", "famous", "fancy", "fluffy", "fragile", "frozen", "gentle", "giant", "gloomy", "golden", "grand",
    "green", "happy", "hollow", "honest", "humble", "icy", "jolly", "keen", "large", "lazy", "little", "lively", "lonely", "loud", "lucky",
    "magic", "mellow", "misty", "modern", "narrow", "noble", "odd", "orange", "pale", "patient", "perfect", "plain", "playful", "polite",
    "proud", "purple", "quick", "rapid", "rare", "robust", "rosy", "rough", "round", "royal", "rusty", "salty", "secret", "serene", "shady",
    "sharp", "shiny", "silent", "silver", "simple", "sleepy", "slow", "smooth", "soft", "solid", "tart", "steep", "stormy", "strange",
    "sturdy", "sunny", "sweet", "swift", "tender", "thick", "tidy", "tiny", "tough", "vast", "velvet", "violet", "vivid", "warm", "wild",
    "windy", "wise", "witty", "wooden", "yellow", "young", "zesty",
)  # fmt: skip
NOUNS = (
    "acorn", "airport", "almond", "anchor", "antler", "apple", "apron", "arch", "arrow", "atlas", "badger", "balcony", "bamboo", "banana",
    "banjo", "barrel", "basket", "beacon", "beaver", "bicycle", "biscuit", "blanket", "blossom", "bottle", "boulder", "bracelet", "branch",
    "bridge", "broom", "bucket", "buffalo", "button", "cabin", "cactus", "camel", "candle", "canoe", "canyon", "castle", "cellar", "cherry",
    "chestnut", "chimney", "circle", "clover", "cobweb", "coconut", "comet", "compass", "copper", "coral", "cottage", "cradle", "crater",
    "cricket", "crown", "crystal", "curtain", "daisy", "desert", "diamond", "dolphin", "donkey", "dragon", "drawer", "drum", "eagle",
    "echo", "elbow", "ember", "engine", "falcon", "feather", "fence", "fiddle", "flute", "forest", "fountain", "galaxy", "garlic", "ginger",
    "giraffe", "glacier", "goblet", "granite", "grape", "guitar", "hammer", "harbor", "harvest", "hazel", "helmet", "hermit", "hillside",
    "honey", "horizon", "iceberg", "igloo", "island", "ivory", "jacket", "jaguar", "jasmine", "jigsaw", "jungle", "kayak", "kernel",
    "kettle", "kitten", "ladder", "lagoon", "lantern", "lemon", "lettuce", "library", "lizard", "locket", "lobster", "magnet", "mango",
    "marble", "market", "meadow", "melon", "mirror", "mitten", "mountain", "museum", "needle", "nectar", "nutmeg", "oasis", "octopus",
    "olive", "onion", "orchard", "otter", "oyster", "paddle", "palace", "panther", "parrot", "pebble", "pelican", "pencil", "pepper",
    "piano", "pickle", "pigeon", "pillow", "planet", "pocket", "potato", "prairie", "pumpkin", "puzzle", "pyramid", "quarry", "quilt",
    "rabbit", "radish", "raven", "ribbon", "river", "robin", "rocket", "saddle", "sailboat", "salmon", "sandal", "saturn", "scarf",
    "shadow", "shelter", "shovel", "sparrow", "spider", "spoon", "squirrel", "statue", "suitcase", "summit", "sunset", "swan", "table",
    "teapot", "temple", "thimble", "thunder", "tiger", "toast", "tomato", "topaz", "tortoise", "tower", "trumpet", "tulip", "tunnel",
    "turnip", "turtle", "umbrella", "valley", "vessel", "village", "violin", "volcano", "waffle", "wagon", "walnut", "walrus", "whistle",
    "willow", "window", "wizard", "yogurt", "zebra",
)  # fmt: skip
NAMES = len(ADJECTIVES) * len(NOUNS)


def name(tag: str) -> str:
    """Return a name."""
    return _pair(draw(tag) % NAMES)


def number(tag: str, digits: int = 7) -> str:
    """Return a number whose first digit is not 0."""
    least = 10 ** (digits - 1)
    return str(least + draw(tag) % (9 * least))


def identifier(tag: str) -> str:
    """Return a UUID in its usual form."""
    return str(uuid.UUID(int=draw(tag) % 2**128, version=4))


def letters(tag: str, count: int, alphabet: str = string.ascii_uppercase) -> str:
    """Return ``count`` letters."""
    rest = draw(tag)
    found = ""
    for _ in range(count):
        rest, index = divmod(rest, len(alphabet))
        found += alphabet[index]
    return found


MADE: dict[str, Callable[[str], str]] = {"number": number, "uuid": identifier, "word": name}
"""Kinds of keys and values."""


def distinct(make: Callable[[str], str], tag: str, count: int) -> tuple[str, ...]:
    """Return ``count`` different texts; more of the same tag begin with the same ones."""
    found: dict[str, None] = {}
    attempt = 0
    while len(found) < count:
        found.setdefault(make(f"{tag}/{attempt}"))
        attempt += 1
    return tuple(found)


def numbered(tag: str) -> Callable[[int], str]:
    """Return what gives each whole number a name of its own, in an order that follows from ``tag``; past all pairs with more adjectives."""
    start, step = draw(f"{tag}/start"), draw(f"{tag}/step") % NAMES
    while math.gcd(step, NAMES) != 1:
        step += 1

    def one(index: int) -> str:
        layer, place = divmod(index, NAMES)
        prefix = ""
        while layer:
            layer, adjective = divmod(layer - 1, len(ADJECTIVES))
            prefix += ADJECTIVES[adjective] + "-"
        return prefix + _pair((start + place * step) % NAMES)

    return one


def shuffled(tag: str, items: list[str]) -> list[str]:
    """Return the items in a drawn order; with more items at the end, those that were there keep theirs among themselves."""
    source = random.Random(tag)  # random() promises the same numbers for the same seed in every version
    return [item for _, item in sorted(((source.random(), item) for item in items), key=lambda pair: pair[0])]


def _pair(index: int) -> str:
    noun, adjective = divmod(index, len(ADJECTIVES))
    return f"{ADJECTIVES[adjective]}-{NOUNS[noun]}"
