"""Stages jobs for the runner as an engine would, and starts ``python -m runner`` on them."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[4]
ENTRY = "methods.fake.family:Fake"


def request_line(name: str, text: str = "some text", max_new_tokens: int = 4, **more: Any) -> dict[str, Any]:
    return {"id": name, "segments": [{"role": "context", "text": text}], "max_new_tokens": max_new_tokens, **more}


def canonical(document: Any) -> str:
    text = json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def ids_line(request: Mapping[str, Any], ids: Sequence[int]) -> dict[str, Any]:
    return {
        "schema_version": 1, "id": request["id"], "request_sha256": canonical(request), "ids": list(ids),
        "spans": [{"role": "context", "start": 0, "end": len(ids)}], "truncated": 2,
        "given_sha256": hashlib.sha256(array("I", ids).tobytes()).hexdigest(), "stop_ids": [2],
    }  # fmt: skip


@dataclass
class Ran:
    """A finished runner."""

    code: int
    log: str


@dataclass
class Root:
    """The folder that a job sees."""

    path: Path
    cells: list[dict[str, Any]] = field(default_factory=list)
    python: str = sys.executable

    @property
    def out(self) -> Path:
        return self.path / "out"

    def add_cell(self, lengths: Mapping[str, int], groups: Sequence[str], keep: str | None = None, **more: Any) -> dict[str, Any]:
        """Add a cell whose prompts have these lengths in tokens, in batches written as strings of ids: ``["a b", "c"]``."""
        number = len(self.cells)
        requests = [request_line(name) for name in lengths]
        folder = self.path / "requests"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in requests))
        ids = [ids_line(line, range(5, 5 + lengths[line["id"]])) for line in requests]
        (folder / f"{number}.ids").write_text("".join(json.dumps(line) + "\n" for line in ids))
        planned = [
            {"id": place, "members": group.split(), "keep": [name for name in group.split() if keep is None or name in keep.split()]}
            for place, group in enumerate(groups)
        ]
        (folder / f"{number}.batches.jsonl").write_text("".join(json.dumps(batch) + "\n" for batch in planned))
        cell = {
            "cell": f"fake@tiny/{number}", "method": "fake", "params": {}, "task": "passkey/default", "prompting": {},
            "requests": f"requests/{number}.jsonl", "ids": f"requests/{number}.ids", "batches": f"requests/{number}.batches.jsonl",
            "responses": f"out/cells/{number}/responses.jsonl", "config_sha256": "0" * 64, "code_sha256": "1" * 64, **more,
        }  # fmt: skip
        self.cells.append(cell)
        return cell

    def job(self, **more: Any) -> dict[str, Any]:
        """Write job.json."""
        job = {
            "schema_version": 1, "kind": "generate", "run": "r", "job": "j", "attempt": 1, "family": "fake", "entry": ENTRY,
            "environment": "plain", "model": {"name": "tiny", "path": "model", "dtype": "float32", "window": 64},
            "device": {"kind": "cpu"}, "cells": self.cells, "seed": 42, **more,
        }  # fmt: skip
        (self.path / "job.json").write_text(json.dumps(job))
        return job

    def start(self, prefix: Sequence[str] = (), **more: Any) -> "subprocess.Popen[str]":
        env = {"PYTHONPATH": str(self.path / "code"), "PATH": os.environ["PATH"], "HOME": str(self.path), **more}
        return subprocess.Popen(
            [*prefix, self.python, "-m", "runner", "--root", str(self.path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, cwd=self.path,
        )  # fmt: skip

    def run(self, prefix: Sequence[str] = (), **more: Any) -> Ran:
        with self.start(prefix, **more) as process:
            log, _ = process.communicate(timeout=120)
        return Ran(process.returncode, log)

    def exit(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.out / "exit.json").read_text())
        return document

    def lines(self, relative: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.path / relative).read_text().splitlines()]

    def responses(self, number: int = 0) -> dict[str, dict[str, Any]]:
        return {line["id"]: line for line in self.lines(f"out/cells/{number}/responses.jsonl")}

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.lines("out/events.jsonl") if line["event"] == kind]


def staged(path: Path) -> Root:
    """Make an empty root with staged code."""
    shutil.copytree(REPOSITORY / "images" / "runner", path / "code" / "runner", ignore=shutil.ignore_patterns("__pycache__"))
    fake = path / "code" / "methods" / "fake"
    fake.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("fake_family.py"), fake / "family.py")
    for folder in ("model", "out"):
        (path / folder).mkdir()
    return Root(path)
