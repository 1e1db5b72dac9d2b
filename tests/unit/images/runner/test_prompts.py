"""Requests and ids, found by id without holding the files."""

import hashlib
import json
from pathlib import Path

import pytest

from longctx.images.runner.ending import BadJob
from longctx.images.runner.prompts import LineIndex, canonical_sha256, ids_sha256
from longctx.orchestrator.store import digest


def test_hash_of_ids_is_of_little_endian_words() -> None:
    assert ids_sha256([1, 258]) == hashlib.sha256(b"\x01\0\0\0\x02\x01\0\0").hexdigest()
    with pytest.raises(OverflowError):
        ids_sha256([-1])


def test_host_and_runner_hash_requests_alike() -> None:
    request = {"id": "a", "segments": [{"text": 'é\u2028"', "role": "context"}], "max_new_tokens": 3, "group": None, "x": [1.5, True]}
    assert canonical_sha256(request) == digest(request)


def test_lines_are_found_however_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    rows = ['{"id": "a", "n": 1}', '{"schema_version":1,"id":"b","n":2}', '{"n": 3, "nested": {"id": "a"}, "id": "c"}', '{"id":"d"}']
    path.write_text("\n".join(rows) + "\n")
    index = LineIndex(path, {"a", "b", "c"})
    assert [index[name]["n"] for name in "cab"] == [3, 1, 2]
    index.close()


@pytest.mark.parametrize(
    ("text", "words"),
    [('{"id": "b"}\n', "lacks 1"), ('{"id": "a"}\n{"id": "a"}\n', "line 2: id 'a' occurs twice"), ("[]\n", "line 1: not an object")],
)
def test_bad_files_say_where(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(BadJob, match=words):
        LineIndex(path, {"a"}).close()


def test_memory_stays_flat(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "x.jsonl"
    filler = "z" * 2000
    with path.open("w") as file:
        for number in range(10000):
            file.write(json.dumps({"id": f"r{number}", "text": filler}) + "\n")
    wanted = {f"r{number}" for number in range(10000)}
    tracemalloc.start()
    index = LineIndex(path, wanted)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < path.stat().st_size / 8
    assert index["r9999"]["id"] == "r9999"
    index.close()
