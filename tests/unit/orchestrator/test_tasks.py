"""Tasks as files."""

import json
import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from longctx.evals.base import BuildContext, Group, ParameterError, Reference, Request, Role, Segment, Size, Stop
from longctx.evals.passkey import EVAL
from longctx.orchestrator import tasks
from longctx.orchestrator.contracts import request as contract
from longctx.orchestrator.errors import BadRunFolder, DataError, ManifestError

CONTEXT = BuildContext(seed=42)


class Fake:
    """An eval that yields what a test gives it."""

    name: str = "fake"
    tasks: tuple[str, ...] = ("t",)
    metric: str = "exact"
    axes: tuple[str, ...] = ()
    summary: str = ""

    def __init__(self, pairs: Iterator[tuple[Request, Reference]], code: tuple[Path, ...] = ()) -> None:
        self.pairs = pairs
        self.files = code

    def normalise(self, task: str, params: Mapping[str, Any]) -> dict[str, Any]:
        return dict(params)

    def needs_tokenizer(self, task: str, params: Mapping[str, Any]) -> bool:
        return False

    def size(self, task: str, params: Mapping[str, Any], data: Path | None) -> Size:
        return Size(requests=None)

    def build(self, task: str, params: Mapping[str, Any], context: BuildContext) -> Iterator[tuple[Request, Reference]]:
        return self.pairs

    def score(self, task: str, reference: Reference, text: str) -> dict[str, float]:
        return {"exact": 0.0}

    def code(self) -> tuple[Path, ...]:
        return self.files


def pair(name: str = "r1", *, text: str = "text", role: Role = "context", **fields: Any) -> tuple[Request, Reference]:
    request = Request(id=name, segments=(Segment(role=role, text=text),), max_new_tokens=4, **fields)
    return request, Reference(id=name, answers=("a",), cluster="c", classes=("a", "b"), length=3, axes={"depth": 0.5, "x": None})


def write(folder: Path, *pairs: tuple[Request, Reference]) -> int:
    return tasks.write_task(Fake(iter(pairs)), "t", {}, CONTEXT, folder, "key")


def test_requests_and_references_come_back_as_written(tmp_path: Path) -> None:
    params = EVAL.normalise("default", {"lengths": {"words": [64]}, "repeats": 2})
    assert tasks.write_task(EVAL, "default", params, CONTEXT, tmp_path, "passkey") == 10
    requests = list(tasks.read_requests(tmp_path / "requests" / "passkey.jsonl"))
    references = list(tasks.read_references(tmp_path / "references" / "passkey.jsonl"))
    built = list(EVAL.build("default", params, CONTEXT))
    assert [request.id for request in requests] == [reference.id for reference in references] == [one.id for one, _ in built]
    assert requests[3].prompt == "".join(segment.text for segment in built[3][0].segments)
    assert references[3].answers == built[3][1].answers
    assert references[3].axes == dict(built[3][1].axes)


def test_every_field_reaches_the_file(tmp_path: Path) -> None:
    full, reference = pair(
        text="line\u2028separator \N{GRINNING FACE}\n",
        min_new_tokens=1,
        stop=Stop(strings=("\n",), tokens_of=("\n",)),
        group=Group(id="g", shared_segments=1),
        repeats=3,
    )
    write(tmp_path, (full, reference))
    (request,) = tasks.read_requests(tmp_path / "requests" / "key.jsonl")
    assert request == contract.Request(
        id="r1", segments=(contract.Segment(role="context", text=full.segments[0].text),), min_new_tokens=1, max_new_tokens=4,
        stop=contract.Stop(strings=("\n",), tokens_of=("\n",)), group=contract.Group(id="g", shared_segments=1), repeats=3,
    )  # fmt: skip
    (found,) = tasks.read_references(tmp_path / "references" / "key.jsonl")
    assert found == contract.Reference(id="r1", answers=("a",), cluster="c", classes=("a", "b"), length=3, axes={"depth": 0.5, "x": None})


def test_no_reference_stands_in_a_request_file(tmp_path: Path) -> None:
    write(tmp_path, pair())
    line = json.loads((tmp_path / "requests" / "key.jsonl").read_text(encoding="utf-8"))
    assert set(line) == {"schema_version", "id", "segments", "min_new_tokens", "max_new_tokens", "stop", "group", "repeats"}


def test_a_requests_hash_is_that_of_its_line_and_of_its_content(tmp_path: Path) -> None:
    import hashlib

    write(tmp_path, pair("r1", text="é 数"), pair("r2"))
    path = tmp_path / "requests" / "key.jsonl"
    hashes = [tasks.request_sha256(request) for request in tasks.read_requests(path)]
    assert hashes == [hashlib.sha256(line).hexdigest() for line in path.read_bytes().splitlines()]
    assert len(set(hashes)) == 2


def test_a_requests_hash_is_the_same_everywhere() -> None:
    request = contract.Request(id="r1", segments=(contract.Segment(role="question", text="où?"),), max_new_tokens=4)
    assert tasks.request_sha256(request) == "e45b0c1e977cc2cd5abb7559e1270dacd5d208d469030a54c631ac6374fddd0f"


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ((pair("same"), pair("other"), pair("same")), "two requests are called 'same'"),
        (((pair("r1")[0], pair("r2")[1]),), "'r1' comes with the reference 'r2'"),
        ((pair("bad name"),), "request 'bad name': id:"),
        ((pair("r1", repeats=0),), "request 'r1': repeats:"),
        ((pair("r1", role="system"),), "request 'r1': segments.0.role:"),  # type: ignore[arg-type]
        ((), "builds no request"),
    ],
)
def test_what_breaks_the_contract_is_named_and_leaves_nothing(
    tmp_path: Path, pairs: tuple[tuple[Request, Reference], ...], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        write(tmp_path, *pairs)
    assert message in str(caught.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_an_eval_raises_half_way_leaves_the_old_files(tmp_path: Path) -> None:
    write(tmp_path, pair("old"))

    def failing() -> Iterator[tuple[Request, Reference]]:
        yield pair("new")
        raise ParameterError(("lengths", "tokens", 2), "is too short", "a greater length")

    with pytest.raises(ManifestError, match=r"fake/t: params.lengths.tokens\[2\]: is too short"):
        tasks.write_task(Fake(failing()), "t", {}, CONTEXT, tmp_path, "key")
    assert [request.id for request in tasks.read_requests(tmp_path / "requests" / "key.jsonl")] == ["old"]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["key.jsonl", "key.jsonl"]


def test_memory_is_flat_in_requests(tmp_path: Path) -> None:
    text = "w " * 50_000
    tracemalloc.start()
    try:
        tasks.write_task(Fake(pair(f"r{index}", text=text) for index in range(100)), "t", {}, CONTEXT, tmp_path, "key")
        peak = tracemalloc.get_traced_memory()[1]
        for _ in tasks.read_requests(tmp_path / "requests" / "key.jsonl"):
            pass
        peak = max(peak, tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    assert (tmp_path / "requests" / "key.jsonl").stat().st_size > 10_000_000
    assert peak < 3_000_000


def test_a_damaged_file_is_named_with_its_line(tmp_path: Path) -> None:
    write(tmp_path, pair("r1"), pair("r2"))
    path = tmp_path / "requests" / "key.jsonl"
    first, second = path.read_bytes().splitlines()
    path.write_bytes(first + b"\n" + second.replace(b'"max_new_tokens":4', b'"max_new_tokens":0') + b"\n")
    with pytest.raises(BadRunFolder, match=r"key.jsonl:2: max_new_tokens"):
        list(tasks.read_requests(path))
    path.write_bytes(first + b"\n" + second[:-5])
    with pytest.raises(BadRunFolder, match="last line is torn"):
        list(tasks.read_requests(path))
    with pytest.raises(BadRunFolder, match="does not exist"):
        list(tasks.read_references(tmp_path / "nowhere.jsonl"))


def test_the_evals_hash_follows_its_code_and_not_its_place(tmp_path: Path) -> None:
    def made(folder: str, content: str, *, task: str = "t", name: str = "eval.py") -> str:
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
        return tasks.eval_sha256(Fake(iter(()), (path,)), task)

    one = made("a", "x = 1")
    assert one == made("b", "x = 1")
    assert len({one, made("a", "x = 2"), made("a", "x = 1", task="u"), made("a", "x = 1", name="score.py")}) == 4


def test_the_evals_hash_tells_files_of_one_name_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "eval.py").write_text(folder, encoding="utf-8")
    files = (tmp_path / "a" / "eval.py", tmp_path / "b" / "eval.py")
    before = tasks.eval_sha256(Fake(iter(()), files), "t")
    assert before == tasks.eval_sha256(Fake(iter(()), files[::-1]), "t")
    files[0].write_text("b", encoding="utf-8")
    files[1].write_text("a", encoding="utf-8")
    assert before != tasks.eval_sha256(Fake(iter(()), files), "t")
