"""The only reader of YAML: plain data, and for every key and value the line and column where it stands.

PyYAML's node API gives the positions. Its YAML 1.1 scalars are replaced by a smaller set, because ``010``, ``12:30`` and ``2024-01-01``
would silently become 8, 750 and a date, and ``1e-3`` a text: here those are text, text, text and 0.001.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import ManifestError

KeyPath = tuple[str | int, ...]
"""The way from the top of a file to a value: keys and list indices."""

Position = tuple[int, int]
"""Line and column, from 1."""

MAX_BYTES = 2**20
MAX_DEPTH = 40
MAX_NODES = 200_000
"""Values after aliases are expanded; a file of 1 MiB without aliases holds fewer."""

MEND = "Nothing was written. Mend the file and run the same command again."

_TAG = "tag:yaml.org,2002:"
_BOOL = re.compile(r"^(?:true|True|TRUE|yes|Yes|YES|on|On|ON|false|False|FALSE|no|No|NO|off|Off|OFF)$")
_INT = re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(r"^[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$")
_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_TRUE = frozenset({"true", "yes", "on"})

_BaseLoader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _TooDeep(yaml.MarkedYAMLError):
    """A value is nested deeper than any file of ours needs."""


class _Loader(_BaseLoader):  # type: ignore[misc]  # the C loader where PyYAML has it
    """Composes nodes by our scalar rules and counts depth: composing is recursive, in C too."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012
    _depth = 0

    def descend_resolver(self, parent: yaml.Node | None, index: Any) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _TooDeep(problem=f"nested deeper than {MAX_DEPTH} levels", problem_mark=parent.start_mark if parent is not None else None)

    def ascend_resolver(self) -> None:
        self._depth -= 1


for _kind, _pattern in (("bool", _BOOL), ("int", _INT), ("float", _FLOAT), ("null", _NULL)):
    _Loader.add_implicit_resolver(f"{_TAG}{_kind}", _pattern, None)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A YAML file as read. ``keys`` and ``values`` give the position of each key and value by its path; the top is ``()``."""

    file: str
    text: str
    data: dict[str, Any]
    keys: Mapping[KeyPath, Position]
    values: Mapping[KeyPath, Position]

    def position(self, path: KeyPath = (), *, key: bool = False) -> Position:
        """Return line and column of the value at ``path``, or of its key; of the nearest thing above where the file has neither."""
        for end in range(len(path), -1, -1):
            part = path[:end]
            if (key or part not in self.values) and part in self.keys:
                return self.keys[part]
            if part in self.values:
                return self.values[part]
        return (1, 1)

    def where(self, path: KeyPath = (), *, key: bool = False) -> str:
        """Return ``file:line:column``."""
        line, column = self.position(path, key=key)
        return f"{self.file}:{line}:{column}"


def read_source(path: Path) -> Source:
    """Read a YAML file whose top level is a mapping. Raises ManifestError that says where it is wrong; paths stay as they were given."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ManifestError(
            f"{path}: cannot be read: {error.strerror or error}", "Nothing was written. Name a YAML file that exists."
        ) from error
    if len(raw) > MAX_BYTES:
        raise _wrong(str(path), (1, 1), f"longer than {MAX_BYTES // 2**20} MiB; allowed: files of at most {MAX_BYTES // 2**20} MiB")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8", "replace")
        raise _wrong(str(path), _position_at(before, len(before)), "not UTF-8 text; allowed: files saved as UTF-8") from error
    return parse(text, str(path))


def parse(text: str, file: str) -> Source:
    """Turn YAML text into a Source; ``file`` is how messages call it. Raises ManifestError."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        found = yaml.reader.Reader.NON_PRINTABLE.search(text)  # the error's own position counts bytes in C and characters otherwise
        at = _position_at(text, found.start() if found else 0)
        raise _wrong(file, at, f"not YAML: {error.reason}; allowed: printable characters") from error
    except yaml.MarkedYAMLError as error:
        raise _syntax(file, text, error) from error
    if node is None:
        raise _wrong(file, (1, 1), "empty; allowed: a mapping of keys to values")
    if not isinstance(node, yaml.MappingNode):
        raise _wrong(file, _mark(node.start_mark), f"the top level is {_node_kind(node)}; allowed: a mapping of keys to values")
    builder = _Builder(file)
    data = builder.value(node, ())
    return Source(file=file, text=text, data=data, keys=builder.keys, values=builder.values)


class _Builder:
    """Walks the nodes once, making data and positions."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.keys: dict[KeyPath, Position] = {}
        self.values: dict[KeyPath, Position] = {}
        self._open: set[int] = set()

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        """Return the node as data; raises ManifestError."""
        self.values[path] = _mark(node.start_mark)
        if len(self.values) > MAX_NODES:
            raise _wrong(self.file, _mark(node.start_mark), f"aliases expand to more than {MAX_NODES} values; allowed: fewer")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self._open or len(path) > MAX_DEPTH:
            raise _wrong(
                self.file, _mark(node.start_mark), "an alias (*name) stands inside what it names; allowed: aliases of finished values"
            )
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                self._known(node, "map")
                return self._mapping(node, path)
            self._known(node, "seq")
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            at = _mark(key_node.start_mark)
            key = self._scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                written = f"{key_node.value!r}" if isinstance(key_node, yaml.ScalarNode) else _node_kind(key_node)
                raise _wrong(
                    self.file, at, f"the key {written} is not text; allowed: text, in quotes where it would be read as something else"
                )
            here = (*path, key)
            if key in result:
                first = self.keys[here]
                raise _wrong(self.file, at, f"the key {key!r} stands twice, first at {self.file}:{first[0]}:{first[1]}; allowed: once")
            self.keys[here] = at
            result[key] = self.value(value_node, here)
        return result

    def _scalar(self, node: yaml.ScalarNode) -> bool | int | float | str | None:
        text: str = node.value
        try:
            match node.tag.removeprefix(_TAG):
                case "str":
                    return text
                case "null":
                    return None
                case "bool" if _BOOL.match(text):
                    return text.lower() in _TRUE
                case "int" if _INT.match(text):
                    return int(text, 16 if "x" in text else 10)
                case "float":
                    return float(text)
        except ValueError:
            pass
        raise _wrong(
            self.file, _mark(node.start_mark), f"{text!r} with the tag {node.tag!r} is not read; allowed: plain values without tags"
        )

    def _known(self, node: yaml.Node, kind: str) -> None:
        if node.tag != f"{_TAG}{kind}":
            raise _wrong(self.file, _mark(node.start_mark), f"the tag {node.tag!r} is not read; allowed: plain values without tags")


def _wrong(file: str, at: Position, message: str) -> ManifestError:
    return ManifestError(f"{file}:{at[0]}:{at[1]}: {message}", MEND)


def _syntax(file: str, text: str, error: yaml.MarkedYAMLError) -> ManifestError:
    mark = error.problem_mark or error.context_mark
    at = _mark(mark) if mark is not None else (1, 1)
    lines = text.splitlines()
    line = lines[at[0] - 1] if at[0] <= len(lines) else ""
    indent = line[: len(line) - len(line.lstrip())]
    if "\t" in indent:
        return _wrong(file, (at[0], indent.index("\t") + 1), "a tab indents this line; allowed: spaces")
    problem = error.problem or "cannot be parsed"
    if "single document" in str(error.context):
        return _wrong(file, at, "a second document starts here; allowed: one document a file")
    if "undefined alias" in problem:
        problem += "; allowed: a name that stands before as &name (quote a value that starts with *)"
    return _wrong(file, at, f"not YAML: {problem}")


def _mark(mark: yaml.Mark) -> Position:
    return (mark.line + 1, mark.column + 1)


def _position_at(text: str, offset: int) -> Position:
    before = text[:offset]
    return (before.count("\n") + 1, len(before) - before.rfind("\n"))


def _node_kind(node: yaml.Node) -> str:
    return "a mapping" if isinstance(node, yaml.MappingNode) else "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
