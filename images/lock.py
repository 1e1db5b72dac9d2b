#!/usr/bin/env python3
"""Makes every hashed lock again: the host's (requirements/) and one for each environment (images/<name>/).

Run `python3 images/lock.py` after editing pyproject.toml or a requirements.in; `--upgrade` moves pins, without it what is pinned
stays. Needs uv and a package index. Locks name no index and hold no torch: its builds differ by device, so environment.yaml pins its
version and the engine installs it first. `--check` writes nothing and fails if a lock would change.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE_ONLY = ("jieba", "rouge-score")
"""Pure Python packages of which there are no wheels."""
OLDEST = "3.11"
"""The oldest Python that longctx itself runs on."""
LEFT_OUT = ("torch", "triton")
"""Installed before the lock, by device; so are the packages whose name starts with ``nvidia-``."""


@dataclass(frozen=True)
class Target:
    """One lock: what it is made from, in order, and the oldest Python it serves. Paths are relative to the repository."""

    lock: str
    sources: tuple[str, ...]
    python: str
    options: tuple[str, ...] = ()


def targets() -> list[Target]:
    """Return all locks; the host's comes before the one that is constrained by it."""
    host = ("pyproject.toml", "requirements/build.in")
    built = tuple(part for package in SOURCE_ONLY for part in ("--no-binary", package))
    found = [
        Target("requirements/host.lock", host, OLDEST, built),
        Target("requirements/dev.lock", host, OLDEST, (*built, "--extra", "dev", "--constraint", "requirements/host.lock")),
    ]
    for source in sorted((ROOT / "images").glob("*/requirements.in")):
        folder = source.parent.relative_to(ROOT).as_posix()
        found.append(
            Target(f"{folder}/requirements.lock", (f"{folder}/requirements.in",), oldest_python(source.parent / "environment.yaml"))
        )
    return found


def oldest_python(environment: Path) -> str:
    """Return the lowest version in the line ``python: ["3.11", "3.12"]`` (this script runs where no YAML reader is installed)."""
    line = re.search(r"^python:.*$", environment.read_text(encoding="utf-8"), re.MULTILINE)
    versions = re.findall(r"(\d+)\.(\d+)", line.group()) if line else []
    if not versions:
        raise SystemExit(f'{environment}: needs a line such as: python: ["3.11", "3.12"]')
    return ".".join(str(part) for part in min((int(major), int(minor)) for major, minor in versions))


def uv() -> str:
    """Return a uv: this checkout's, or the one on PATH."""
    for candidate in (ROOT / ".venv" / "bin" / "uv", *sorted((ROOT / ".tools").glob("*/bin/uv"))):
        if candidate.exists():
            return str(candidate)
    if found := shutil.which("uv"):
        return found
    raise SystemExit("uv is not here; run `python3 bootstrap.py` first, or install uv")


def compile_lock(target: Target, upgrade: bool, program: str) -> str:
    """Return the lock's new text; pins of the present lock are kept unless ``upgrade``."""
    present = ROOT / target.lock
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "lock.txt"
        if present.exists():
            shutil.copyfile(present, output)
        command = [program, "pip", "compile", "--quiet", "--universal", "--python-version", target.python, "--generate-hashes"]
        command += ["--no-header", "--only-binary", ":all:", "--no-emit-index-url", "--no-emit-find-links", "--output-file", str(output)]
        command += [part for package in LEFT_OUT for part in ("--no-emit-package", package)]
        command += [*target.options, *(["--upgrade"] if upgrade else []), *target.sources]
        # A folder of wheels would put the hash of one machine's build into the lock.
        environment = {key: value for key, value in os.environ.items() if key != "UV_FIND_LINKS"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{target.lock}: uv could not resolve it\n{done.stderr.strip()}")
        text = output.read_text(encoding="utf-8")
    if device := re.findall(r"^(?:nvidia-\S+|triton|torch)==\S+", text, re.MULTILINE):
        raise SystemExit(f"{target.lock}: holds packages that differ by device: {', '.join(device)}; take out what asks for them")
    return f"# Made by: python3 images/lock.py   from: {', '.join(target.sources)}\n{text}"


def main(arguments: list[str] | None = None) -> int:
    """Write all locks, or say which would change."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--upgrade", action="store_true", help="move to the newest versions that the requirements allow")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a lock would change")
    options = parser.parse_args(arguments)
    program = uv()
    changed = 0
    for target in targets():
        path = ROOT / target.lock
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        after = compile_lock(target, options.upgrade, program)
        changed += after != before
        print(f"{target.lock}: {'unchanged' if after == before else 'would change' if options.check else 'written'}")
        if after != before and not options.check:
            temporary = path.with_suffix(".tmp")
            temporary.write_text(after, encoding="utf-8")
            temporary.replace(path)
    return 1 if options.check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
