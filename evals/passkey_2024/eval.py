"""The 2024 passkey protocol: requests and scores. What is asked, and over which grid, stands in the fetched configuration files."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base import BuildContext, DataMissing, Group, Reference, Request, Segment, Size
from . import metrics, options
from .cities import CITIES
from .haystack import Background, insert
from .keys import WRAPPERS, Draw, Drawn, city_numbers, pass_key
from .material import FILES, Config, files_of, read_config, read_essays

CITY_NEEDLE = "Every city has a number, and the number of {city} is {number}."
CITY_QUESTION = "\nWhich number does {city} have? The number of {city} is "


@dataclass(frozen=True, kw_only=True)
class Place:
    """One request's place in the grid; ``number`` counts requests, and is only known where keys are drawn in sequence."""

    words: int
    depth: int | float
    repeat: int
    number: int | None = None

    @property
    def group(self) -> str:
        """Requests with the same text before the needle."""
        return f"w{self.words}-d{self.depth!r}"

    @property
    def id(self) -> str:
        """Such as ``w512-d0.1111111111111111-r2``."""
        return f"{self.group}-r{self.repeat}" + ("" if self.number is None else f"-k{self.number}")


class Passkey2024:
    """``7digits``, ``64digits`` (10 lengths, 10 depths, 3 repeats) and ``quick`` (the longest text, both ends)."""

    name: str = "passkey-2024"
    tasks: tuple[str, ...] = tuple(FILES)
    metric: str = "exact"
    axes: tuple[str, ...] = ("words", "depth")
    summary: str = "the 2024 benchmark's pass keys in Paul Graham's essays (longctx data fetch passkey); by length and depth"

    def normalise(self, task: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Fill in defaults; None means what the configuration file says. Raises ParameterError."""
        return options.normalise(params)

    def needs_tokenizer(self, task: str, params: Mapping[str, Any]) -> bool:
        """Never: lengths are in words."""
        return False

    def reads(self, task: str, params: Mapping[str, Any]) -> tuple[str, ...]:
        """The files below the data folder that ``build`` depends on."""
        return files_of(task)

    def size(self, task: str, params: Mapping[str, Any], data: Path | None) -> Size:
        """Known where the configuration has been fetched, or where nothing of it is needed."""
        lengths = params["lengths"]["words"] if params["lengths"] else ()
        depths, repeats, max_new_tokens = params["depths"] or (), params["repeats"] or 0, params["max_new_tokens"]
        try:
            config = _bound(read_config(data, task), params)
        except DataMissing:
            pass
        else:
            lengths, depths, repeats, max_new_tokens = config.lengths, config.depths, config.repeats, config.max_new_tokens
        return Size(
            requests=len(lengths) * len(depths) * repeats or None,
            least_tokens=max(lengths, default=None),
            max_new_tokens=max_new_tokens,
        )

    def build(self, task: str, params: Mapping[str, Any], context: BuildContext) -> Iterator[tuple[Request, Reference]]:
        """Yield requests by length, depth, repeat. Raises DataMissing. The manifest's seed has no say: the protocol has its own."""
        given = read_config(context.data, task)
        config = _bound(given, params)
        background = Background(read_essays(context.data, params["order"]))
        words: list[str] = []
        files: tuple[str, ...] = ()
        for place, drawn in _drawn(given, config, params):
            if len(words) != place.words:
                words, files = background.words(place.words)
            needles, question = _wording(config, place.depth, drawn)
            before, rest = insert(words, needles)
            yield _pair(config, place, drawn, (before, rest, question), files if params["order"] != "name" else None)

    def score(self, task: str, reference: Reference, text: str) -> dict[str, float]:
        """Score one answer; README.md says what each metric is."""
        key = reference.answers[0]
        scores = {"exact": metrics.exact(key, text), "partial": metrics.partial(key, text)}
        if reference.classes is not None:
            scores["distraction_allowed"] = max(metrics.exact(number, text) for number in reference.classes)
            scores["distraction_allowed_partial"] = max(metrics.partial(number, text) for number in reference.classes)
        return scores

    def code(self) -> tuple[Path, ...]:
        """All modules of this folder."""
        return tuple(sorted(Path(__file__).parent.glob("*.py")))


def _bound(config: Config, params: Mapping[str, Any]) -> Config:
    """Return the configuration with what the parameters say instead."""
    own = {
        "lengths": tuple(params["lengths"]["words"]) if params["lengths"] else None,
        "depths": tuple(params["depths"]) if params["depths"] else None,
        "position": params["instruction"],
        **{name: params[name] for name in ("repeats", "target_length", "style", "wrapper", "max_new_tokens")},
    }
    return Config(**{**vars(config), **{name: value for name, value in own.items() if value is not None}})


def _places(config: Config) -> Iterator[Place]:
    """Yield the grid: by length, then depth, then repeat."""
    for words in config.lengths:
        for depth in config.depths:
            for repeat in range(config.repeats):
                yield Place(words=words, depth=depth, repeat=repeat)


def _drawn(given: Config, config: Config, params: Mapping[str, Any]) -> Iterator[tuple[Place, Drawn]]:
    """Yield each place with what is drawn for it.

    The original draws for one request after the other, so that a key depends on the whole grid before it. By default a place of the
    configuration's own grid has the key it has there, whatever part of that grid is asked for, and every other place draws for itself.
    """
    draw = _draw(config, params)
    source = random.Random(params["seed"])
    if params["keys"] == "sequence":
        for number, place in enumerate(_places(config)):
            yield Place(words=place.words, depth=place.depth, repeat=place.repeat, number=number), draw(source)
        return
    protocol = {place: draw(source) for place in _places(given)}
    for place in _places(config):
        yield place, protocol.get(place) or draw(random.Random(f"passkey-2024/{params['seed']}/{place.id}"))


def _draw(config: Config, params: Mapping[str, Any]) -> Draw:
    if params["task"] == "city":
        return city_numbers(config.style, config.target_length, params["distractors"], CITIES)
    return pass_key(config.style, config.target_length)


def _wording(config: Config, depth: float, drawn: Drawn) -> tuple[Sequence[tuple[float, str]], str]:
    """Return the needles with their depths, ascending, and the question."""
    wrapper = WRAPPERS[config.wrapper]
    if not drawn.pairs:
        return [(depth, config.template.replace(config.placeholder, wrapper.format(drawn.key)))], config.question
    asked, *others = (CITY_NEEDLE.format(city=wrapper.format(city), number=wrapper.format(number)) for city, number in drawn.pairs)
    before = int(len(others) * depth)
    after = len(others) - before
    depths = [number * depth / (before + 1) for number in range(1, before + 1)]
    depths += [depth, *(depth + number * (1 - depth) / (after + 1) for number in range(1, after + 1))]
    others.reverse()  # the original takes them from the end
    texts = [*others[:before], asked, *others[before:]]
    return list(zip(depths, texts, strict=True)), CITY_QUESTION.format(city=wrapper.format(drawn.pairs[0][0]))


def _pair(
    config: Config, place: Place, drawn: Drawn, texts: tuple[str, str, str], files: tuple[str, ...] | None
) -> tuple[Request, Reference]:
    before, rest, question = texts
    instruction = Segment(role="instruction", text=config.instruction)
    prefix = config.position == "prefix"
    shared = [*([instruction] if prefix else []), *([Segment(role="context", text=before)] if before else [])]
    own = [Segment(role="context", text=rest), *([] if prefix else [instruction]), Segment(role="question", text=question)]
    request = Request(
        id=place.id,
        segments=(*shared, *own),
        max_new_tokens=config.max_new_tokens,
        group=Group(id=place.group, shared_segments=len(shared)) if shared else None,
    )
    axes: dict[str, Any] = {"words": place.words, "depth": place.depth, "repeat": place.repeat}
    if files is not None:
        axes["files"] = " ".join(dict.fromkeys(files))
    numbers = tuple(number for _, number in drawn.pairs) or None
    return request, Reference(id=place.id, answers=(drawn.key,), cluster=f"w{place.words}", classes=numbers, axes=axes)


EVAL = Passkey2024()
