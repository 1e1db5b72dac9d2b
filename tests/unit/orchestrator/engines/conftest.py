"""A tiny environment and a uv that needs no network."""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from longctx.orchestrator.engines.venv import VenvEngine
from longctx.orchestrator.environments import Environment, read_environment
from longctx.orchestrator.settings import Settings

FAKE_UV = """\
#!{python} -IS
import os, pathlib, sys, time
arguments = sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(" ".join(arguments) + "\\n")
if os.path.exists({slow!r}):
    time.sleep(0.1)
if arguments[:2] == ["python", "find"]:
    pythons = pathlib.Path({pythons!r}).read_text().split()
    if arguments[-1] not in pythons:
        sys.exit("error: No interpreter found")
    print({python!r})
elif arguments[:2] == ["python", "install"]:
    sys.exit("error: the download failed")
elif arguments[0] == "venv":
    folder = pathlib.Path(arguments[-1])
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to({python!r})
elif arguments[:2] == ["pip", "install"]:
    print("Installed 1 package in 1ms", file=sys.stderr)
    fail = pathlib.Path({fail!r})
    if fail.exists() and fail.read_text() in " ".join(arguments):
        print("error: cannot reach https://someone:secret@index.example/simple", file=sys.stderr)
        sys.exit(2)
"""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """An engine with a fake uv: what it was asked is in ``calls()``."""

    folder: Path
    environment: Environment
    engine: Callable[..., VenvEngine]

    def calls(self) -> list[str]:
        log = self.folder / "uv.log"
        return log.read_text().splitlines() if log.exists() else []

    def fail(self, part: str) -> None:
        (self.folder / "fail").write_text(part)

    def slow(self) -> None:
        (self.folder / "slow").touch()

    def pythons(self, *minors: str) -> None:
        (self.folder / "pythons").write_text(" ".join(minors))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    import sys

    images = tmp_path / "images" / "mine"
    images.mkdir(parents=True)
    (images / "environment.yaml").write_text(
        textwrap.dedent("""
            name: mine
            summary: For a test.
            python: ["3.90", "3.91"]
            torch: {cpu: 2.13.0}
            imports: [json]
        """)
    )
    (images / "requirements.lock").write_text("six==1.17.0\n")
    places = {name: str(tmp_path / name) for name in ("fail", "slow", "pythons")}
    uv = tmp_path / "uv"
    uv.write_text(FAKE_UV.format(python=sys.executable, log=str(tmp_path / "uv.log"), **places))
    uv.chmod(0o755)
    (tmp_path / "pythons").write_text("3.90 3.91")
    monkeypatch.setattr("uv.find_uv_bin", lambda: str(uv))
    environment = read_environment(images)

    def engine(**settings: object) -> VenvEngine:
        return VenvEngine(Settings.model_validate({"cache": tmp_path / "cache", **settings}), look_up=lambda _: read_environment(images))

    return Bench(folder=tmp_path, environment=environment, engine=engine)
