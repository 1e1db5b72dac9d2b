"""The runner in real environments: tensors weighed, prompts tokenised and counted with a tokenizer small enough to check by hand."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from unit.images.runner import staging
from unit.images.runner import tiny_tokenizer as tiny

from longctx.orchestrator.contracts.job import Job
from longctx.orchestrator.contracts.outcome import Environment, Event, Exit
from longctx.orchestrator.contracts.request import Ids, Request
from longctx.orchestrator.store import digest

ENVIRONMENTS = ("tf5", "tf4.40")


@pytest.fixture
def root(tmp_path: Path) -> staging.Root:
    return staging.staged(tmp_path / "root")


def of_bytes(text: str) -> list[int]:
    return [tiny.FIRST_BYTE + byte for byte in text.encode()]


def request(name: str, *texts: str, **more: Any) -> dict[str, Any]:
    roles = ("instruction", "context", "question", "answer_prefix")
    line = {"id": name, "segments": [{"role": role, "text": text} for role, text in zip(roles, texts, strict=False)], "max_new_tokens": 3}
    Request.model_validate(line | more)
    return line | more


REQUESTS = [
    request("a", "do xa", "by é€", " why", ""),
    request("b", " " + "0123456789" * 4 + "\n", stop={"strings": [], "tokens_of": ["\n", "xab"]}),
]
PROMPTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "chat": {"template": "chat", "eos": "tokenizer", "template_kwargs": {"mood": "!"}},
    "double": {"template": "chat", "bos": "double", "eos": "none"},
    "none": {"bos": "none"},
    "cut": {"max_prompt_tokens": 11, "truncate": "middle"},
}


def tokenised(root: staging.Root, python: Path) -> dict[str, dict[str, Ids]]:
    """Run a tokenising job over every prompting."""
    root.python = str(python)
    tiny.write(root.path / "model")
    (root.path / "requests").mkdir()
    (root.path / "requests/t.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in REQUESTS))
    items = [
        {"task": "passkey/default", "prompting": prompting, "requests": "requests/t.jsonl", "ids": f"out/tiny/{name}.ids"}
        for name, prompting in PROMPTINGS.items()
    ]
    root.job(kind="tokenise", cells=[], entry=None, family=None, tokenise=items)
    ran = root.run()
    assert ran.code == 0, ran.log
    assert "Warning" not in ran.log and "sequence length" not in ran.log
    Job.model_validate_json((root.path / "job.json").read_bytes())
    Environment.model_validate_json((root.out / "environment.json").read_bytes())
    assert Exit.model_validate_json((root.out / "exit.json").read_bytes()).answered == len(REQUESTS) * len(PROMPTINGS)
    for line in (root.out / "events.jsonl").read_bytes().splitlines():
        TypeAdapter(Event).validate_json(line)
    assert sorted(path.name for path in (root.out / "tiny").iterdir()) == sorted(f"{name}.ids" for name in PROMPTINGS)
    return {
        name: {line.id: line for line in map(Ids.model_validate_json, (root.out / f"tiny/{name}.ids").read_bytes().splitlines())}
        for name in PROMPTINGS
    }


def cut(line: Ids) -> list[tuple[str, list[int]]]:
    return [(span.role, list(line.ids[span.start : span.end])) for span in line.spans]


@pytest.mark.venv
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_tokenise(root: staging.Root, environment_python: Callable[[str], Path], environment: str) -> None:
    found = tokenised(root, environment_python(environment))
    a, b = found["plain"]["a"], found["plain"]["b"]
    assert cut(a) == [
        ("template", [tiny.BOS]),
        ("instruction", of_bytes("do x")),
        ("context", [tiny.AB, *of_bytes("y é€")]),  # 'a' and 'b' became one token across the border
        ("question", of_bytes(" why")),
        ("answer_prefix", []),
    ]
    assert a.request_sha256 == digest(REQUESTS[0])
    assert list(a.stop_ids) == [tiny.EOS, tiny.USER]
    assert list(b.stop_ids) == [tiny.EOS, tiny.USER, *of_bytes("\n"), tiny.AB]
    assert cut(found["chat"]["b"]) == [
        ("template", [tiny.BOS, tiny.USER]), ("instruction", of_bytes("0123456789" * 4)), ("template", of_bytes("|!")),
    ]  # fmt: skip
    assert list(found["chat"]["a"].stop_ids) == [tiny.EOS]
    assert found["double"]["a"].ids[:3] == (tiny.BOS, tiny.BOS, tiny.USER)
    assert list(found["double"]["b"].stop_ids) == [*of_bytes("\n"), tiny.AB]
    assert found["none"]["a"].ids == a.ids[1:]
    short = found["cut"]["b"]
    assert list(short.ids) == [tiny.BOS, *of_bytes(" 012" + "56789\n")] and short.truncated == len(b.ids) - 11
    assert short.spans[-1].end == 11


@pytest.mark.venv
def test_every_environment_makes_the_same_ids(root: staging.Root, environment_python: Callable[[str], Path]) -> None:
    made = []
    for environment in ENVIRONMENTS:
        made.append(tokenised(root, environment_python(environment)))
        root.path.joinpath("requests/t.jsonl").unlink()
        (root.path / "requests").rmdir()
        for path in (root.out / "tiny").iterdir():
            path.unlink()
    assert made[0] == made[1]


@pytest.mark.venv
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_count(root: staging.Root, environment_python: Callable[[str], Path], environment: str) -> None:
    root.python = str(environment_python(environment))
    tiny.write(root.path / "model")
    root.job(kind="count", cells=[], entry=None, family=None)
    box = root.path / "requests/count"
    box.mkdir(parents=True)
    with root.start() as process:
        for number, (texts, counts) in enumerate([(["xab", ""], [3, 1]), ([], []), (["é" * 50], [101])], 1):
            (box / "draft").write_text(json.dumps({"texts": texts}))
            (box / "draft").rename(box / f"{number:04}.json")
            answer = root.out / f"count/{number:04}.json"
            deadline = time.monotonic() + 60
            while not answer.exists():
                assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
                time.sleep(0.005)
            assert json.loads(answer.read_text()) == {"counts": counts}
        (box / "stop").touch()
        log, _ = process.communicate(timeout=30)
    assert process.returncode == 0, log
    last = Exit.model_validate_json((root.out / "exit.json").read_bytes())
    assert (last.status, last.phase, last.answered) == ("done", "count", 3)


@pytest.mark.venv
def test_failures_say_what_to_do(root: staging.Root, environment_python: Callable[[str], Path]) -> None:
    root.python = str(environment_python("tf5"))
    (root.path / "requests").mkdir()
    (root.path / "requests/t.jsonl").write_text(json.dumps(REQUESTS[0]) + "\nnonsense\n")
    item = {"task": "passkey/default", "prompting": {}, "requests": "requests/t.jsonl", "ids": "out/t.ids"}
    root.job(kind="tokenise", cells=[], entry=None, tokenise=[item])
    assert root.run().code == 70
    assert root.exit()["reason"] == "load_failed" and "tokenizer in model/" in root.exit()["message"]
    tiny.write(root.path / "model")
    assert root.run().code == 64
    assert "t.jsonl, line 2" in root.exit()["message"]
    assert not (root.out / "t.ids").exists() and not (root.out / "t.ids.tmp").exists()


@pytest.mark.venv
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_torch_tensors(environment_python: Callable[[str], Path], environment: str) -> None:
    """Runs in an environment that has torch: see ``inside_measure.py``."""
    script = Path(staging.__file__).with_name("inside_measure.py")
    env = {"PYTHONPATH": str(staging.REPOSITORY / "images"), "PATH": os.environ["PATH"]}
    ran = subprocess.run([environment_python(environment), "-W", "error", script], capture_output=True, text=True, env=env, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.split() == ["whole", "shared", "nothing", "parts", "sparse", "wrapped", "parameters", "peak"]
