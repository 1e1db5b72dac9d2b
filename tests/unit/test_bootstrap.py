"""bootstrap.py: readable by old Pythons, quick when nothing changed, clear when it cannot go on; and the locks it installs."""

import ast
import importlib.util
import re
import sys
import textwrap
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parent.parent.parent
LOCKED = ("pyproject.toml", "requirements/host.lock", "requirements/dev.lock", "src/longctx/__init__.py")


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A copy in a checkout of its own, with a uv on PATH that only makes the files it is asked for."""
    root = tmp_path / "checkout"
    for name in ("bootstrap.py", *LOCKED):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes((REPOSITORY / name).read_bytes())
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text(
        textwrap.dedent(f"""\
            #!{sys.executable} -IS
            import pathlib, sys
            with open({str(tmp_path / "uv.log")!r}, "a") as log:
                log.write(" ".join(sys.argv[1:]) + "\\n")
            if sys.argv[1] == "venv":
                folder = pathlib.Path(sys.argv[-1])
                (folder / "bin").mkdir(parents=True)
                (folder / "pyvenv.cfg").touch()
                (folder / "bin" / "python").symlink_to({sys.executable!r})
            if "-e" in sys.argv:
                (pathlib.Path(sys.argv[-1]) / ".venv" / "bin" / "longctx").touch()
            if pathlib.Path({str(tmp_path / "fail")!r}).exists() and sys.argv[1] != "--version":
                sys.exit(2)
        """)
    )
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", str(uv.parent))
    spec = importlib.util.spec_from_file_location("bootstrap_under_test", root / "bootstrap.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def asked(tmp_path: Path) -> list[str]:
    log = tmp_path / "uv.log"
    return [line for line in log.read_text().splitlines() if line != "--version"] if log.exists() else []


def run(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bootstrap.py", *arguments])
    return int(module.main())


def test_an_old_python_can_read_it() -> None:
    ast.parse((REPOSITORY / "bootstrap.py").read_text(), feature_version=(3, 6))


def test_an_old_python_is_told_so(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 13, "final", 0))
    assert run(bootstrap, monkeypatch) == bootstrap.TOO_OLD
    assert re.search(r"needs Python 3\.11 or newer; .* is 3\.10\..*python3\.11 bootstrap\.py", capsys.readouterr().err)


def test_it_installs_the_lock_then_longctx_and_says_what_to_type(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(bootstrap, monkeypatch) == 0
    venv, lock, own = asked(tmp_path)
    assert venv.startswith("venv ") and venv.endswith(".venv")
    assert "--require-hashes --no-deps -r requirements/host.lock" in lock
    assert "--no-deps --no-build-isolation --offline -e" in own
    assert ".venv/bin/longctx --help" in capsys.readouterr().out


def test_nothing_is_done_when_nothing_changed(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run(bootstrap, monkeypatch)
    before = asked(tmp_path)
    monkeypatch.setenv("PATH", "")
    assert run(bootstrap, monkeypatch) == 0 and asked(tmp_path) == before


def test_a_changed_lock_renews_it_in_place(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run(bootstrap, monkeypatch)
    with (bootstrap.ROOT / "requirements" / "host.lock").open("a") as file:
        file.write("# changed\n")
    assert run(bootstrap, monkeypatch) == 0
    assert [line.split()[0] for line in asked(tmp_path)] == ["venv", "pip", "pip", "pip", "pip"]


def test_dev_adds_and_a_plain_run_leaves_it(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run(bootstrap, monkeypatch)
    assert run(bootstrap, monkeypatch, "--dev") == 0
    assert any("requirements/dev.lock" in line for line in asked(tmp_path))
    before = asked(tmp_path)
    assert run(bootstrap, monkeypatch) == 0 and asked(tmp_path) == before


def test_a_moved_checkout_gets_a_new_one(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run(bootstrap, monkeypatch)
    bootstrap.STAMP.write_text(bootstrap.STAMP.read_text().replace(str(bootstrap.ROOT), "/elsewhere"))
    # This uv makes folders only where there are none; the real one clears.
    monkeypatch.setattr(bootstrap.subprocess, "call", lambda command, **_: 1 if "venv" in command else 0)
    monkeypatch.setattr(bootstrap, "runs", lambda command: True)
    assert run(bootstrap, monkeypatch) == bootstrap.INSTALL_FAILED


def test_a_stopped_attempt_is_not_taken_for_done(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run(bootstrap, monkeypatch)
    (tmp_path / "fail").touch()
    assert run(bootstrap, monkeypatch, "--dev") == bootstrap.INSTALL_FAILED
    assert not bootstrap.STAMP.exists()
    (tmp_path / "fail").unlink()
    before = len(asked(tmp_path))
    assert run(bootstrap, monkeypatch) == 0 and len(asked(tmp_path)) > before


def test_a_folder_that_is_no_environment_is_left_alone(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "checkout" / ".venv" / "precious"
    precious.parent.mkdir()
    precious.touch()
    assert run(bootstrap, monkeypatch) == bootstrap.NOT_OURS
    assert precious.exists() and "move it away" in capsys.readouterr().err


def test_without_uv_pip_and_venv_it_says_what_to_install(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap, "runs", lambda command: False)
    assert run(bootstrap, monkeypatch) == bootstrap.NO_UV
    assert re.search(r"pipx install uv[\s\S]*python3-pip, or python3\.\d+-venv", capsys.readouterr().err)


def test_uv_is_fetched_as_the_lock_pins_it(bootstrap: ModuleType) -> None:
    version, lines = bootstrap.pinned_uv()
    assert lines.startswith(f"uv=={version} ") and lines.count("--hash=sha256:") > 1 and lines.rstrip()[-64:].isalnum()


def test_pips_variables_stand_in_for_uvs(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PIP_INDEX_URL": "one", "PIP_EXTRA_INDEX_URL": "two", "PIP_FIND_LINKS": "a b"}.items():
        monkeypatch.setenv(name, value)
    for name in ("UV_FIND_LINKS", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    found = bootstrap.uv_variables()
    assert (found["UV_DEFAULT_INDEX"], found["UV_INDEX"], found["UV_FIND_LINKS"]) == ("one", "two", "a,b")
    monkeypatch.setenv("UV_INDEX_URL", "own")
    assert "UV_DEFAULT_INDEX" not in bootstrap.uv_variables()


@pytest.mark.parametrize(("lock", "extras"), [("host", ()), ("dev", ("dev",))])
def test_the_locks_hold_what_pyproject_asks_for(lock: str, extras: tuple[str, ...]) -> None:
    text = (REPOSITORY / "requirements" / f"{lock}.lock").read_text()
    pins = {
        re.sub(r"[-_.]+", "-", name).lower(): version for name, version in re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;]+)", text, re.MULTILINE)
    }
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"], "editables"]
    wanted += [line for extra in extras for line in project["project"]["optional-dependencies"][extra]]
    for requirement in map(Requirement, wanted):
        version = pins.get(re.sub(r"[-_.]+", "-", requirement.name).lower())
        assert version is not None and requirement.specifier.contains(version), f"{requirement}: run `python3 images/lock.py`"
    assert "://" not in text and text.count("--hash=sha256:") >= len(pins)
