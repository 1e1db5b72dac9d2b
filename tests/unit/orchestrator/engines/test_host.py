"""What a Python of the host says of itself, and what is refused once it changed."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from unit.orchestrator.builders import HELD, answering, record_system

from longctx.orchestrator.contracts.plan import LockedEnvironment
from longctx.orchestrator.engines.host import ImportFailed, as_recorded, ask, direct, pins
from longctx.orchestrator.environments import find_environment
from longctx.orchestrator.errors import EnvironmentFailed


def test_a_real_python_says_what_it_holds() -> None:
    held = ask(direct({}), sys.executable, ["json"])
    assert held.python == platform.python_version() and "pytest" in held.packages
    assert list(held.packages) == sorted(held.packages)
    with pytest.raises(ImportFailed, match="importing no_such_module fails: ModuleNotFoundError") as caught:
        ask(direct({}), sys.executable, ["json", "no_such_module"])
    assert caught.value.module == "no_such_module"


def test_of_two_installs_the_one_that_imports_counts_and_what_has_no_name_does_not(tmp_path: Path) -> None:
    for place, version in (("first", "1.0"), ("second", "2.0")):
        info = tmp_path / place / f"twice-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: Twice\nVersion: {version}\n")
    (tmp_path / "first" / "-roken.dist-info").mkdir()
    path = os.pathsep.join(str(tmp_path / place) for place in ("first", "second"))
    assert ask(direct({"PYTHONPATH": path}), sys.executable).packages["twice"] == "1.0"


def test_nothing_of_the_caller_reaches_it_but_what_was_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "a-secret")
    done = direct({"EBPYTHONPREFIXES": "/apps"})([sys.executable, "-c", "import os, json; print(json.dumps(dict(os.environ)))"])
    seen = json.loads(done.stdout)
    assert seen["EBPYTHONPREFIXES"] == "/apps" and "HF_TOKEN" not in seen and seen["HOME"] != os.environ["HOME"]


def test_what_is_no_python_is_told(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailed, match="cannot be started: No such file"):
        ask(direct({}), str(tmp_path / "absent"))
    with pytest.raises(EnvironmentFailed, match=r"does not say what it holds \(exit code 1\): nothing said\n.*Python 3\.9"):
        ask(direct({}), "/bin/false")

    def crashing(argv: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.CompletedProcess(argv, -4, "", "warming up\nIllegal instruction\n")

    with pytest.raises(EnvironmentFailed, match=r"exit code -4\): Illegal instruction"):
        ask(crashing, "python")


def test_pins() -> None:
    text = "# six==0\nsix==1.17.0 \\\n    --hash=sha256:00\ncolorama==0.4.6 ; sys_platform == 'win32'\ntorch==2.6.0a0+ecf3.nv25.1\n"
    assert pins(text) == {"six": "1.17.0", "colorama": "0.4.6", "torch": "2.6.0a0+ecf3.nv25.1"}


def look(device: Any = "cpu", **changes: Any) -> LockedEnvironment:
    return as_recorded(find_environment("system"), device, ask(answering(**changes), "/host/python"), "venv")


def test_as_long_as_nothing_changes_it_is_the_environment() -> None:
    record_system()
    locked = look("cuda", torch_cuda=None)  # torch is not imported by a quick look
    assert (locked.locked, locked.engine, locked.kind, locked.name) == (False, "venv", "cuda", "system")
    assert (locked.python, locked.packages, locked.torch_record_sha256) == ("3.12.4", HELD, "b" * 64)
    assert locked.spec_sha256 == find_environment("system").sha256


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"packages": HELD | {"torch": "2.12.1"}}, r"recorded: torch 2\.12\.0\+cu128, now 2\.12\.1\."),
        ({"packages": HELD | {"attrs": "1"}}, r"recorded: attrs 1 is new\."),
        ({"packages": {"torch": HELD["torch"]}}, r"transformers 5\.23\.1 is gone; numpy 2\.3\.0 is gone\."),
        ({"packages": HELD | {f"p{n}": "1" for n in range(9)}}, r"p4 1 is new \(and 4 more\)\."),
        ({"python": "3.13.0"}, r"recorded: Python 3\.12, now 3\.13\.0\."),
        ({"torch_record_sha256": "c" * 64}, r"recorded: torch 2\.12\.0\+cu128 holds other files\."),
    ],
)
def test_what_changed_is_named(changes: dict[str, Any], told: str) -> None:
    record_system()
    with pytest.raises(EnvironmentFailed, match=told + r"\n.*longctx config system --like tf5 --python /host/python"):
        look(**changes)


def test_a_cpu_build_is_refused_on_cuda() -> None:
    record_system(changes={"torch_cuda": None})
    with pytest.raises(EnvironmentFailed, match="not a CUDA build"):
        look("cuda")
