"""Turns every complaint of pydantic about a YAML file into one line that names the place, the key, and what is allowed."""

import json
import re
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from .problems import Problem, refuse
from .source import KeyPath, Source

M = TypeVar("M", bound=BaseModel)

_KINDS = {
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "none_required": "nothing (null)",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}
"""What a value should have been, by pydantic's error type."""

_NAME = "letters, digits and . _ + -, starting with a letter or digit, at most 96"
_FORMS = (
    (r"^[A-Za-z0-9][A-Za-z0-9._+-]", _NAME),
    (r"^[a-z0-9][a-z0-9._-]*/", "eval/task, such as passkey/default"),
    (r"^(hf|path|pypi|random):", "hf:repository@revision, path:folder, pypi:package==version#file or random:shape"),
    (r"^[1-9][0-9]*(\.[0-9]+)?[kmgt", "a number with k, m, g or t, such as 24g"),
    (r"^[A-Za-z_][\w.]*:", "module:attribute"),
    (r"^[A-Za-z_]\w*:", "file:function"),
)
"""The patterns of the contracts in words, by how they start."""


def validate(model: type[M], source: Source) -> M:
    """Return the file as a contract. Raises ManifestError with every mistake, in the file's order.

    Values are taken strictly: ``"4"`` is no number and ``3.10`` no text, so that what a person wrote is what is used.
    """
    try:
        return model.model_validate_json(json.dumps(source.data), strict=True)
    except ValidationError as error:
        refuse(source, list(problems_of(model, source.data, error)))


def problems_of(model: type[BaseModel], data: Any, error: ValidationError) -> Iterator[Problem]:
    """Yield one problem a place: the branches of a union speak with one voice."""
    at: dict[KeyPath, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False, include_input=False):
        at.setdefault(_path(data, detail), []).append(detail)
    for path, details in at.items():
        deeper = any(len(other) > len(path) and other[: len(path)] == path for other in at)
        kinds = [detail for detail in details if detail["type"] in _KINDS]
        told = [detail for detail in details if detail["type"] not in _KINDS and not (deeper and detail["type"] == "too_short")]
        if told:
            yield _problem(model, data, path, told)
        elif not deeper:
            wanted = " or ".join(dict.fromkeys(_KINDS[detail["type"]] for detail in kinds))
            yield Problem(path=path, message=f"is {_kind(_at(data, path))}", allowed=wanted)


def _problem(model: type[BaseModel], data: Any, path: KeyPath, details: list[ErrorDetails]) -> Problem:
    detail = details[0]
    context: Mapping[str, Any] = detail.get("ctx") or {}
    if detail["loc"][-1] == "[key]":  # pydantic's mark for a mapping's key that is not allowed
        return Problem(path=path, message="unknown key", options=tuple(_choices(detail)), wrong=str(path[-1]), at_key=True)
    match detail["type"]:
        case "extra_forbidden":
            owner = _owner(model, data, path[:-1])
            keys = tuple(owner.model_fields) if owner else ()
            return Problem(path=path, message="unknown key", options=keys, wrong=str(path[-1]), at_key=True)
        case "missing":
            owner = _owner(model, data, path[:-1])
            description = owner.model_fields[str(path[-1])].description if owner and path[-1] in owner.model_fields else None
            return Problem(path=path, message="is missing", allowed=description or "", at_key=True)
        case "literal_error":
            choices = tuple(dict.fromkeys(choice for each in details for choice in _choices(each)))
            others = [form for each in details if (form := _form(each))]
            written = _at(data, path)
            allowed = ", ".join([*choices, *(f"or {form}" for form in others)])
            return Problem(path=path, message=f"{written!r} is not known", allowed=allowed, options=choices, wrong=str(written))
        case "string_pattern_mismatch":
            return Problem(path=path, message=f"{_at(data, path)!r} has the wrong form", allowed=_form(detail))
        case "int_from_float":
            return Problem(path=path, message=f"{_at(data, path)!r} is not whole", allowed="a whole number")
        case "too_short":
            return Problem(path=path, message="is empty", allowed=f"at least {context.get('min_length', 1)}")
        case "too_long" | "string_too_long":
            return Problem(path=path, message="is too long", allowed=f"at most {context.get('max_length')}")
        case "string_too_short":
            return Problem(path=path, message="is too short", allowed=f"at least {context.get('min_length')} characters")
        case "greater_than_equal" | "greater_than" | "less_than" | "less_than_equal":
            return Problem(path=path, message=f"{_at(data, path)!r} is out of range", allowed=_bound(context))
        case _:
            return Problem(path=path, message=detail["msg"].removeprefix("Value error, "))


def _path(data: Any, detail: ErrorDetails) -> KeyPath:
    """Follow pydantic's location through the data; names of union branches are no keys and fall out."""
    path: list[str | int] = []
    here: Any = data
    for index, part in enumerate(detail["loc"]):
        last = index == len(detail["loc"]) - 1
        if has(here, part):
            path.append(part)
            here = here[part]
        elif last and detail["type"] == "missing":
            path.append(part)
    return tuple(path)


def has(value: Any, part: str | int) -> bool:
    """Say whether plain data has something at a key or index."""
    if isinstance(value, dict):
        return part in value
    return isinstance(value, list) and isinstance(part, int) and part < len(value)


def _at(data: Any, path: KeyPath) -> Any:
    here: Any = data
    for part in path:
        here = here[part]
    return here


def _owner(model: type[BaseModel], data: Any, path: KeyPath) -> type[BaseModel] | None:
    """Return the model that describes the mapping at ``path``."""
    annotations: list[Any] = [model]
    for part in path:
        annotations = [inner for annotation in annotations for inner in _inside(annotation, part)]
    found = [annotation for annotation in annotations if isinstance(annotation, type) and issubclass(annotation, BaseModel)]
    return found[0] if found else None


def _inside(annotation: Any, part: str | int) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(part))
        return _members(field.annotation) if field else []
    arguments = get_args(annotation)
    if get_origin(annotation) is dict and isinstance(part, str):
        return _members(arguments[1])
    if get_origin(annotation) in (list, tuple) and isinstance(part, int):
        return _members(arguments[0])
    return []


def _members(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for argument in get_args(annotation) for member in _members(argument)]
    return [annotation]


def _choices(detail: ErrorDetails) -> list[str]:
    return re.findall(r"'([^']*)'", str((detail.get("ctx") or {}).get("expected", "")))


def _form(detail: ErrorDetails) -> str:
    pattern = str((detail.get("ctx") or {}).get("pattern", ""))
    return next((words for start, words in _FORMS if pattern.startswith(start)), pattern)


def _bound(context: Mapping[str, Any]) -> str:
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    return " and ".join(f"{word} {context[key]}" for key, word in words.items() if key in context)


def _kind(value: Any) -> str:
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return "true or false"
        case int():
            return "a whole number"
        case float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case _:
            return "a mapping"
