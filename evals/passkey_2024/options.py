"""The parameters of ``passkey-2024``. None stands for what the task's configuration file says."""

from collections.abc import Mapping
from typing import Any

from .. import parameters
from ..base import ParameterError
from .cities import CITIES
from .keys import CANDIDATES, WRAPPERS

CHOICES = {
    "task": ("pass-key", "city"),
    "order": ("name", "file-listing"),
    "keys": ("place", "sequence"),
    "instruction": ("prefix", "surfix"),
    "style": tuple(CANDIDATES),
    "wrapper": tuple(WRAPPERS),
}
DEFAULTS = {"task": "pass-key", "order": "name", "keys": "place"}
NAMES = (
    "task", "order", "seed", "keys", "lengths", "depths", "repeats", "target_length", "style", "wrapper", "instruction", "distractors",
    "max_new_tokens",
)  # fmt: skip
SEED = 42
DISTRACTORS = 3
LONGEST = 10_000_000
LONGEST_TARGET = 512


def normalise(params: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in defaults. Raises ParameterError."""
    parameters.known(params, NAMES)
    chosen = {name: _choice(name, params.get(name)) for name in CHOICES}
    return {
        **chosen,
        "seed": parameters.integer(params.get("seed", SEED), ("seed",), 0, 2**63 - 1),
        "lengths": None if params.get("lengths") is None else {"words": _lengths(params["lengths"])},
        "depths": None if params.get("depths") is None else _depths(params["depths"]),
        "repeats": _integer(params, "repeats", 100_000),
        "target_length": _integer(params, "target_length", LONGEST_TARGET),
        "distractors": _distractors(params, chosen),
        "max_new_tokens": _integer(params, "max_new_tokens", 1_000_000),
    }


def _choice(name: str, value: Any) -> str | None:
    options = CHOICES[name]
    if value is None:
        return DEFAULTS.get(name)
    if not isinstance(value, str) or value not in options:
        raise ParameterError((name,), f"{value!r} is not allowed", f"one of {', '.join(options)}", options)
    return value


def _integer(params: Mapping[str, Any], name: str, high: int) -> int | None:
    return None if params.get(name) is None else parameters.integer(params[name], (name,), 1, high)


def _lengths(value: Any) -> list[int]:
    if not isinstance(value, Mapping):
        return parameters.integers(value, ("lengths",), 1, LONGEST)
    if tuple(value) == ("tokens",):
        raise ParameterError(("lengths", "tokens"), "this protocol counts words", "{words: [512, 20480]}, or the task passkey/default")
    parameters.known(value, ("words",), ("lengths",))
    return parameters.integers(value.get("words"), ("lengths", "words"), 1, LONGEST)


def _depths(value: Any) -> list[int | float]:
    # Whole ends, as the original writes them, so that a depth given here is the same depth as the configuration's.
    return [int(depth) if depth in {0, 1} else depth for depth in parameters.numbers(value, ("depths",), 0, 1)]


def _distractors(params: Mapping[str, Any], chosen: Mapping[str, str | None]) -> int | None:
    given = params.get("distractors")
    if chosen["task"] != "city":
        if given is not None:
            raise ParameterError(("distractors",), "a pass key has no distractors", "only together with task: city")
        return None
    # Cities are all different, and so are numbers; a style or length that only the configuration names leaves more numbers than cities.
    numbers = len(CANDIDATES[chosen["style"] or "int"]) ** (_integer(params, "target_length", LONGEST_TARGET) or 2)
    most = min(len(CITIES), numbers) - 1
    return parameters.integer(DISTRACTORS if given is None else given, ("distractors",), 0, most)
