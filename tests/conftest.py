"""What every test may count on: markers that skip with a reason (or fail when required), a home that is not yours, and environments.

Imports longctx only where it is used: some tests run inside an environment, where only the runner and the methods are.
"""

import contextlib
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from longctx.orchestrator.settings import Settings

CALLER = dict(os.environ)
"""The environment that pytest was started in, before any test changed it."""
UNIT = Path(__file__).parent / "unit"
collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["unit/*/inside/test_*.py"]
"""Folders called ``inside`` hold tests that run in an environment, by its own Python."""


def required() -> frozenset[str]:
    """Return the markers whose tests must run: ``LONGCTX_REQUIRE=docker,venv``."""
    return frozenset(part for part in CALLER.get("LONGCTX_REQUIRE", "").replace(",", " ").split() if part)


def _answers(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _no_venv() -> str | None:
    from longctx.orchestrator.engines.venv import VenvEngine

    return VenvEngine(_settings()).unavailable()


def _no_docker() -> str | None:
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=10)
    except DockerException as error:
        return f"no Docker Engine answers: {error}"
    with contextlib.closing(client):
        return None if client.ping() else "the Docker Engine does not answer a ping"


def _no_slurm() -> str | None:
    if shutil.which("sbatch") is None:
        return "there is no sbatch"
    return None if _answers("sinfo", "--noheader") else "no Slurm controller answers sinfo"


def _no_gpu() -> str | None:
    return None if _answers("nvidia-smi", "--list-gpus") else "nvidia-smi lists no GPU"


def _no_data() -> str | None:
    folder = CALLER.get("LONGCTX_DATA")
    return None if folder and Path(folder).is_dir() else "LONGCTX_DATA names no folder"


NEEDS: Mapping[str, Callable[[], str | None]] = {
    "venv": _no_venv,
    "docker": _no_docker,
    "slurm": _no_slurm,
    "gpu": _no_gpu,
    "data": _no_data,
}
"""By marker: why its tests cannot run here, or None."""


@contextlib.contextmanager
def _callers_variables() -> Iterator[None]:
    """Undo, for a while, what tests did to the environment: uv's cache and indexes are the caller's."""
    present = dict(os.environ)
    os.environ.clear()
    os.environ.update(CALLER)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(present)


@functools.cache
def _missing(marker: str) -> str | None:
    return NEEDS[marker]()


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a requirement that no marker answers to: a typing error there would silently skip what must run."""
    if unknown := required() - NEEDS.keys():
        raise pytest.UsageError(f"LONGCTX_REQUIRE names {', '.join(sorted(unknown))}; it may name: {', '.join(NEEDS)}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a marked test where what it needs is missing; fail it where that was required."""
    for marker in NEEDS:
        if item.get_closest_marker(marker) is not None and (reason := _missing(marker)):
            if marker in required():
                pytest.fail(f"{marker} is required, but: {reason}", pytrace=False)
            pytest.skip(f"{marker}: {reason}")


@functools.cache
def _settings() -> "Settings":
    from longctx.orchestrator.settings import load_settings

    with _callers_variables():
        settings = load_settings()
    if cache := CALLER.get("LONGCTX_TEST_CACHE"):
        return settings.model_copy(update={"cache": Path(cache).expanduser().absolute()})
    return settings


def _real_places() -> tuple[str, ...]:
    home = Path(CALLER.get("HOME", "/"))
    places = [
        Path(CALLER.get("XDG_CONFIG_HOME") or home / ".config") / "longctx",
        Path(CALLER.get("XDG_CACHE_HOME") or home / ".cache") / "longctx",
    ]
    places += [Path(CALLER[name]) for name in ("LONGCTX_CACHE", "LONGCTX_CONFIG", "LONGCTX_TEST_CACHE") if CALLER.get(name)]
    return tuple(str(place.absolute()) for place in places)


_forbidden: tuple[str, ...] = ()


def _guard(event: str, arguments: tuple[object, ...]) -> None:
    """Audit hook: while a unit test runs, the person's own settings and cache cannot be opened, listed or made."""
    if _forbidden and event in ("open", "os.mkdir", "os.listdir", "os.scandir", "os.rename", "os.remove") and arguments:
        path = arguments[0]
        if isinstance(path, (str, os.PathLike)) and any(
            os.fspath(path) == place or str(path).startswith(place + "/") for place in _forbidden
        ):
            raise AssertionError(f"a unit test touches {path}, which is the real one")


sys.addaudithook(_guard)


@pytest.fixture(autouse=True)
def own_home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give each unit test an empty home, configuration and cache, and make touching the real ones an error."""
    global _forbidden
    if not request.path.is_relative_to(UNIT):
        yield
        return
    real = _real_places()
    home = tmp_path_factory.mktemp("home")
    for variable in [name for name in os.environ if name.startswith(("LONGCTX_", "XDG_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
    monkeypatch.setenv("LONGCTX_CACHE", str(home / ".cache" / "longctx"))
    _forbidden = real
    try:
        yield
    finally:
        _forbidden = ()


@pytest.fixture(scope="session")
def environment_python() -> Callable[[str], Path]:
    """Return a function from an environment's name to its interpreter (CPU), made once in the real cache or ``$LONGCTX_TEST_CACHE``.

    For tests marked ``venv``: one that cannot be made skips the test, or fails it where venv is required.
    """
    from longctx.orchestrator.engines.venv import VenvEngine
    from longctx.orchestrator.environments import load_environment
    from longctx.orchestrator.errors import EnvironmentFailed

    engine = VenvEngine(_settings())

    @functools.cache
    def make(name: str) -> Path | str:
        spec = load_environment(name)
        try:
            with _callers_variables():
                engine.prepare(spec, "cpu", print)
            return engine.python(spec, "cpu")
        except EnvironmentFailed as error:
            return str(error)

    def python(name: str) -> Path:
        made = make(name)
        if isinstance(made, Path):
            return made
        if "venv" in required():
            pytest.fail(made, pytrace=False)
        pytest.skip(made)

    return python


@pytest.fixture(scope="session")
def tf5_image() -> None:
    """Build the image of tf5 for the CPU, or find it. Where it cannot be had the test is skipped, or fails where docker is required."""
    from longctx.orchestrator.engines.docker.engine import DockerEngine
    from longctx.orchestrator.environments import load_environment
    from longctx.orchestrator.errors import EnvironmentFailed

    engine = DockerEngine(_settings())
    try:
        with _callers_variables():
            engine.prepare(load_environment("tf5"), "cpu", print)
    except EnvironmentFailed as error:
        if "docker" in required():
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    finally:
        engine.docker.close()


@pytest.fixture(scope="session")
def real_settings() -> "Settings":
    """Return the settings that ``environment_python`` uses, for tests that start jobs in those environments."""
    return _settings()
