"""The runner as a process: a staged job with a fake family, from start to exit.json."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from longctx.orchestrator.contracts.job import Job
from longctx.orchestrator.contracts.outcome import Environment, Event, Exit
from longctx.orchestrator.contracts.response import Response, Timing

TIMES = ("time", "memory")


def check_documents(root: Any) -> None:
    """Every document that was written is one that the contracts accept."""
    Job.model_validate_json((root.path / "job.json").read_bytes())
    Exit.model_validate_json((root.out / "exit.json").read_bytes())
    Environment.model_validate_json((root.out / "environment.json").read_bytes())
    for line in (root.out / "events.jsonl").read_bytes().splitlines():
        TypeAdapter(Event).validate_json(line)
    for path in root.out.glob("cells/*/responses.jsonl"):
        for line in path.read_bytes().splitlines():
            Response.model_validate_json(line)
    for path in root.out.glob("cells/*/timing.jsonl"):
        for line in path.read_bytes().splitlines():
            Timing.model_validate_json(line)


def without_times(path: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in path.read_text().splitlines()]


def test_answers_in_batches(root: Any) -> None:
    root.add_cell({"a": 4, "b": 6, "c": 8}, ["a b", "c"])
    root.add_cell({"a": 4}, ["a"])
    root.job()
    ran = root.run()
    assert ran.code == 0, ran.log
    check_documents(root)
    assert root.exit() == {"schema_version": 1, "status": "done", "phase": "respond", "reason": "ok", "message": "", "answered": 4}
    answers = root.responses()
    assert list(answers) == ["a", "b", "c"]
    assert answers["a"]["text"] == "5 6 7"
    assert answers["a"]["batch"] == {"id": 0, "size": 2}
    assert answers["a"]["tokens"] == {"given": 4, "truncated": 2, "compressed": None, "generated": 3}
    assert answers["a"]["memory"] == {"weights": 1000, "peak": None}
    assert answers["a"]["fed_sha256"] == answers["a"]["given_sha256"]
    # one cache of 4 * (4 + 6) bytes for two requests
    assert answers["a"]["kv"]["device"] == {"dense": 20, "codes": 0, "scales": 8, "index": 0, "state": 0}
    assert answers["c"]["kv"] == {
        "at": "prefill", "logical": 8, "held": 4.0, "host": None, "analytic": 32, "full": 64,
        "device": {"dense": 32, "codes": 0, "scales": 8, "index": 0, "state": 0},
    }  # fmt: skip
    assert "batch a b exact None" in ran.log and "closed" in ran.log
    assert [event["event"] for event in root.lines("out/events.jsonl")][:2] == ["loading", "loaded"]
    last = [event for event in root.events("progress") if event["cell"] == "fake@tiny/0"][-1]
    assert (last["done"], last["total"]) == (3, 3)
    assert sum(event["tokens"] for event in root.events("progress")) == 4 + 6 + 8 + 4 + 4 * 3
    environment = json.loads((root.out / "environment.json").read_text())
    assert environment["attention"] == "none at all"
    assert not (root.out / "exit.json.tmp").exists()


def test_runs_on_python_3_9(root: Any, python39: str) -> None:
    root.python = python39
    root.add_cell({"a": 4, "b": 70}, ["a", "b"], timing=timing_pass({8: ("a", "a")}))
    root.job()
    ran = root.run()
    assert ran.code == 0, ran.log
    check_documents(root)
    assert root.responses()["b"]["finish"] == "too_long"


def test_answers_do_not_differ_from_run_to_run(root: Any, tmp_path: Path) -> None:
    root.add_cell({"a": 4, "b": 6}, ["a b"])
    root.job()
    path = root.out / "cells/0/responses.jsonl"
    root.run()
    first = without_times(path)
    path.unlink()
    root.run()
    assert without_times(path) == first


@pytest.mark.parametrize("cut", [1, 40, 10**6])
def test_torn_line_is_redone_and_nothing_twice(root: Any, cut: int) -> None:
    root.add_cell({"a": 4, "b": 6, "c": 8}, ["a", "b", "c"])
    root.job()
    path = root.out / "cells/0/responses.jsonl"
    root.run()
    whole = without_times(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][: max(1, len(lines[1]) - cut)])
    ran = root.run()
    assert ran.code == 0, ran.log
    assert without_times(path) == whole
    assert path.read_bytes().startswith(lines[0])
    assert "batch a " not in ran.log and "batch b " in ran.log
    assert root.exit()["answered"] == 2


def test_nothing_left_to_do(root: Any) -> None:
    root.add_cell({"a": 4}, ["a"])
    root.job()
    root.run()
    before = (root.out / "cells/0/responses.jsonl").read_bytes()
    ran = root.run()
    assert ran.code == 0
    assert (root.out / "cells/0/responses.jsonl").read_bytes() == before
    assert root.exit()["answered"] == 0


def test_half_answered_batch_is_recomputed_whole_and_only_the_rest_kept(root: Any) -> None:
    root.add_cell({"a": 4, "b": 6}, ["a b"], keep="b")
    root.job()
    ran = root.run()
    assert "batch a b exact None" in ran.log
    assert list(root.responses()) == ["b"]
    assert root.responses()["b"]["batch"] == {"id": 0, "size": 2}
    assert root.events("progress")[-1]["total"] == 1


def test_failures_are_answers(root: Any) -> None:
    behave = {"b": "error", "c": "oom", "d": "exit", "e": "finish", "f": "nan", "g": "skip"}
    lengths = dict.fromkeys("abcdefgh", 5) | {"z": 70}
    root.add_cell(lengths, [*"abcdefgh", "z"], params={"behave": behave})
    root.job()
    ran = root.run()
    assert ran.code == 0, ran.log
    check_documents(root)
    answers = root.responses()
    assert {name: line["finish"] for name, line in answers.items()} == {
        "a": "length", "b": "error", "c": "oom", "d": "error", "e": "error", "f": "error", "g": "error", "h": "length", "z": "too_long",
    }  # fmt: skip
    assert answers["b"]["error"] == {"type": "ZeroDivisionError", "message": "the policy divides"}
    assert answers["c"]["oom"] == {"phase": "decode", "tokens": 7}
    assert answers["d"]["error"]["type"] == "SystemExit"
    assert "Answer.finish" in answers["e"]["error"]["message"]
    assert answers["g"]["error"]["type"] == "NoAnswer"
    assert answers["b"]["tokens"]["given"] == 5 and answers["b"]["time"] == {"prefill_s": None, "decode_s": None}
    assert "Traceback" in ran.log and "ZeroDivisionError" in ran.log


def test_out_of_memory_takes_those_of_a_batch_that_have_no_answer(root: Any) -> None:
    root.add_cell(dict.fromkeys("abcd", 5), ["a b c", "d"], params={"behave": {"b": "oom"}})
    root.job()
    root.run()
    assert {name: line["finish"] for name, line in root.responses().items()} == {"a": "length", "b": "oom", "c": "oom", "d": "length"}


@pytest.mark.parametrize(("named", "expected"), [(True, ["length", "too_long", "length"]), (False, ["too_long"] * 3)])
def test_too_long_takes_only_those_it_names(root: Any, named: bool, expected: list[str]) -> None:
    root.add_cell({"a": 5, "b": 70, "c": 5}, ["a b c"], params={"named": named})
    root.job()
    root.run()
    check_documents(root)
    assert [line["finish"] for line in root.responses().values()] == expected
    if named:
        assert root.responses()["a"]["kv"]["device"]["dense"] == 20
        assert root.responses()["a"]["batch"] == {"id": 0, "size": 3}


def test_compressed_prompt_has_its_own_hash(root: Any) -> None:
    root.add_cell({"a": 5, "b": 5}, ["a", "b"], params={"behave": {"a": "compress", "b": "surrogate"}})
    root.job()
    root.run()
    check_documents(root)
    answers = root.responses()
    assert answers["a"]["fed_sha256"] != answers["a"]["given_sha256"] == answers["b"]["fed_sha256"]
    assert answers["a"]["tokens"]["compressed"] == 4
    assert answers["b"]["text"] == "?"


@pytest.mark.parametrize(("how", "reason"), [("lost", "gpu_lost"), ("full", "disk_full")])
def test_infrastructure_ends_the_job_and_charges_nobody(root: Any, how: str, reason: str) -> None:
    root.add_cell(dict.fromkeys("abc", 5), [*"abc"], params={"behave": {"b": how}})
    root.job()
    assert root.run().code == 70
    check_documents(root)
    assert (root.exit()["status"], root.exit()["reason"]) == ("failed", reason)
    assert list(root.responses()) == ["a"]


def test_unbindable_variant_does_not_stop_the_others(root: Any) -> None:
    root.add_cell({"a": 5}, ["a"], params={"unbindable": True})
    root.add_cell({"a": 5}, ["a"])
    root.job()
    assert root.run().code == 70
    check_documents(root)
    assert root.exit()["reason"] == "method_raised" and "no such policy" in root.exit()["message"]
    assert list(root.responses(1)) == ["a"]
    assert "cannot be set up" in root.events("warning")[0]["message"]


@pytest.mark.parametrize(("how", "reason"), [("oom", "cuda_oom"), ("error", "load_failed")])
def test_failed_load(root: Any, how: str, reason: str) -> None:
    root.add_cell({"a": 5}, ["a"])
    root.job()
    assert root.run(FAKE_LOAD=how).code == 70
    check_documents(root)
    assert (root.exit()["phase"], root.exit()["reason"]) == ("load", reason)


def timing_pass(buckets: dict[int, tuple[str, str]], new_tokens: int = 9) -> dict[str, Any]:
    """Buckets of ``(warm-up, requests)``."""
    return {
        "new_tokens": new_tokens, "out": "out/cells/0/timing.jsonl",
        "buckets": [{"tokens": tokens, "warmup": warm, "requests": rest.split()} for tokens, (warm, rest) in buckets.items()],
    }  # fmt: skip


def test_timing_runs_each_request_alone_after_a_warm_up(root: Any) -> None:
    root.add_cell({"a": 4, "b": 6, "c": 12}, ["a b", "c"], timing=timing_pass({8: ("a", "a b"), 16: ("c", "c")}))
    root.job()
    ran = root.run()
    assert ran.code == 0, ran.log
    check_documents(root)
    rows = [line.split()[1] for line in ran.log.splitlines() if line.endswith("exact 9")]
    assert rows == ["a", "a", "b", "c", "c"]
    lines = root.lines("out/cells/0/timing.jsonl")
    assert [(line["bucket"], line["id"], line["given"], line["generated"]) for line in lines] == [
        (8, "a", 4, 9),
        (8, "b", 6, 9),
        (16, "c", 12, 9),
    ]
    assert lines[0]["memory"]["weights"] == 1000
    if os.access("/proc/self/clear_refs", os.W_OK):
        assert lines[0]["memory"]["peak"] >= 0
    assert root.exit()["phase"] == "time"


def test_timing_skips_what_is_timed_and_warns_of_failures(root: Any) -> None:
    params = {"behave": {"b": "error"}}
    root.add_cell({"a": 4, "b": 6}, ["a", "b"], params=params, timing=timing_pass({8: ("a", "a b")}))
    root.job()
    assert root.run().code == 0
    assert [line["id"] for line in root.lines("out/cells/0/timing.jsonl")] == ["a"]
    assert "could not be timed" in root.events("warning")[0]["message"]
    ran = root.run()
    rows = [line.split()[1] for line in ran.log.splitlines() if line.endswith("exact 9")]
    assert rows == ["a", "b"]  # the warm-up, then what is missing
    check_documents(root)


def wait_for(path: Path, text: str, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 60
    while not (path.exists() and text in path.read_text()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def test_sigterm_stops_after_the_sample_in_hand(root: Any) -> None:
    root.add_cell(dict.fromkeys("abcdef", 5), [*"abcdef"], params={"pause": 0.3})
    root.job()
    with root.start() as process:
        wait_for(root.out / "cells/0/responses.jsonl", '"id": "a"', process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 75
    check_documents(root)
    assert (root.exit()["status"], root.exit()["reason"]) == ("stopped", "sigterm")
    answered = list(root.responses())
    assert answered == [*"abcdef"][: len(answered)] and 1 <= len(answered) < 6
    assert root.exit()["answered"] == len(answered)


def test_sigterm_while_loading_stops_at_once(root: Any) -> None:
    root.add_cell({"a": 5}, ["a"])
    root.job()
    with root.start(FAKE_LOAD="sleep") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "sleeping\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 75
    check_documents(root)
    assert root.exit()["phase"] == "load"


@pytest.mark.parametrize("lifeline", ["stdin", ""])
def test_lifeline_ends_an_orphan(root: Any, lifeline: str) -> None:
    root.add_cell(dict.fromkeys("ab", 5), [*"ab"], params={"pause": 0.5})
    root.job()
    with root.start(LONGCTX_LIFELINE=lifeline) as process:
        wait_for(root.out / "events.jsonl", "loaded", process)
        process.communicate(timeout=60)  # closes standard input
    assert process.returncode == (111 if lifeline else 0)
    assert (root.out / "exit.json").exists() == (not lifeline)


def test_killed_in_mid_batch_leaves_no_exit_and_resumes(root: Any) -> None:
    cell = root.add_cell(dict.fromkeys("abc", 5), [*"abc"], params={"behave": {"b": "kill"}})
    root.job()
    root.run()
    assert not (root.out / "exit.json").exists()
    assert list(root.responses()) == ["a"]
    cell["params"] = {}
    root.job()
    assert root.run().code == 0
    assert list(root.responses()) == ["a", "b", "c"]


def test_full_disk_is_told_in_the_space_kept_for_it(root: Any) -> None:
    """A limit on file size stands for a full disk: the responses outgrow it, exit.json does not."""
    names = [f"r{number}" for number in range(60)]
    root.add_cell(dict.fromkeys(names, 5), names)
    root.job()
    ran = root.run(prefix=["prlimit", f"--fsize={20 * 1024}"])
    assert ran.code == 70, ran.log
    check_documents(root)
    assert root.exit()["reason"] == "disk_full"
    lines = (root.out / "cells/0/responses.jsonl").read_bytes()
    assert lines.endswith(b"\n")  # the torn line was taken back
    assert 10 < len(lines.splitlines()) == root.exit()["answered"] < 60


def test_really_full_disk(root: Any, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], check=False, capture_output=True).returncode
    ):
        pytest.skip("mounting a small file system needs root")
    try:
        root.out.rmdir()
        root.out.symlink_to(small)
        names = [f"r{number}" for number in range(90)]
        root.add_cell(dict.fromkeys(names, 5), names)
        root.job()
        ran = root.run()
        assert ran.code == 70, ran.log
        check_documents(root)
        assert root.exit()["reason"] == "disk_full"
    finally:
        subprocess.run(["umount", small], check=True)


def test_bad_jobs_say_where(root: Any) -> None:
    cell = root.add_cell({"a": 5}, ["a"])
    cases = [
        ({"schema_version": 9}, "schema_version 9"),
        ({"kind": "dance"}, "generate, tokenise, count"),
        ({"entry": None}, "module:attribute"),
        ({"cells": [{**cell, "responses": "requests/x.jsonl"}]}, "below out/"),
        ({"cells": [{**cell, "responses": "out/../../x.jsonl"}]}, "not a path below the root"),
        ({"cells": [cell, cell]}, "one writer"),
        ({"cells": [{**cell, "batches": "requests/none.jsonl"}]}, "none.jsonl: No such file"),
        ({"cells": [{**cell, "batches": "requests/keep.jsonl"}]}, "keep.jsonl, line 1: members must differ"),
        ({"cells": [{**cell, "batches": "requests/other.jsonl"}]}, "lacks 1 of the job's requests, first 'q'"),
        ({"model": {}}, "lacks name, path"),
    ]
    (root.path / "requests/keep.jsonl").write_text('{"id": 0, "members": ["a"], "keep": ["b"]}\n')
    (root.path / "requests/other.jsonl").write_text('{"id": 0, "members": ["q"], "keep": ["q"]}\n')
    for change, words in cases:
        root.job(**change)
        ran = root.run()
        assert ran.code == 64, (change, ran.log)
        Exit.model_validate_json((root.out / "exit.json").read_bytes())
        assert root.exit()["reason"] == "bad_job" and words in root.exit()["message"], root.exit()


def test_ids_of_another_request_are_refused(root: Any) -> None:
    root.add_cell({"a": 5}, ["a"])
    path = root.path / "requests/0.jsonl"
    path.write_text(path.read_text().replace("some text", "other text"))
    root.job()
    assert root.run().code == 64
    assert "tokenised from another request" in root.exit()["message"]


def test_stale_exit_goes_first(root: Any) -> None:
    root.add_cell({"a": 5}, ["a"])
    root.job()
    root.run()
    assert (root.out / "exit.json").exists()
    root.cells[0]["params"] = {"behave": {"a": "kill"}}
    (root.out / "cells/0/responses.jsonl").unlink()
    root.job()
    root.run()
    assert not (root.out / "exit.json").exists()


def test_progress_is_told_at_most_ten_times_a_second(root: Any) -> None:
    names = [f"r{number}" for number in range(300)]
    root.add_cell(dict.fromkeys(names, 5), names)
    root.job()
    started = time.monotonic()
    assert root.run().code == 0
    events = root.events("progress")
    assert len(events) <= 3 + 10 * (time.monotonic() - started)
    assert events[-1]["done"] == 300
    assert sum(event["tokens"] for event in events) == 300 * 8
