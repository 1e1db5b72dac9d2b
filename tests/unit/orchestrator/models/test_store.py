import os
import subprocess
import sys
from pathlib import Path

import pytest

from longctx.orchestrator.errors import StorageError
from longctx.orchestrator.models import find, resolve
from longctx.orchestrator.models.store import MARKER, build, complete
from longctx.orchestrator.settings import Settings

from .conftest import spec

RESOLVE = """
import os, signal, sys, time
from pathlib import Path
from longctx.orchestrator.contracts.manifest import ModelSpec
from longctx.orchestrator.models import resolve, store
from longctx.orchestrator.settings import Settings

how, cache, source = sys.argv[1:]
if how == "killed":
    # Everything is written, only the marker is not: the last moment at which the folder must not count.
    def write_json(path, value, before=store.write_json):
        if path.name == store.MARKER:
            os.kill(os.getpid(), signal.SIGKILL)
        before(path, value)
    store.write_json = write_json
def report(line):
    print(line, flush=True)
    while how == "waits" and "converting" in line and not Path(cache, "go").exists():
        time.sleep(0.01)
print(resolve(ModelSpec(name="m", source=source), settings=Settings(cache=Path(cache)), report=report).identity_sha256)
"""


def start(how: str, settings: Settings, gguf: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", RESOLVE, how, str(settings.cache), f"path:{gguf}"], stdout=subprocess.PIPE, text=True)


def test_a_killed_conversion_leaves_nothing_that_counts(settings: Settings, gguf: Path) -> None:
    with start("killed", settings, gguf) as process:
        process.communicate(timeout=60)
        assert process.returncode == -9
    models = settings.cache / "models"
    left = [path for path in models.iterdir() if path.is_dir() and path.name != "locks"]
    assert len(left) == 1 and left[0].name.startswith(".gguf-") and (left[0] / "model.safetensors").is_file()
    assert find(spec(f"path:{gguf}"), settings) is None
    locked = resolve(spec(f"path:{gguf}"), settings=settings, report=lambda line: None)
    assert not left[0].exists()
    assert find(spec(f"path:{gguf}"), settings) == locked


def test_two_processes_convert_once(settings: Settings, gguf: Path) -> None:
    with start("waits", settings, gguf) as first, start("waits", settings, gguf) as second:
        assert first.stdout and second.stdout
        begun = sorted(process.stdout.readline().split()[0] for process in (first, second))
        (settings.cache / "go").touch()
        ended = [process.stdout.read().split() for process in (first, second)]
    assert begun == ["another", "converting"]
    assert ended[0] == ended[1] and len(ended[0]) == 1


def test_every_uid_can_read_what_is_made(settings: Settings, gguf: Path) -> None:
    before = os.umask(0o077)
    try:
        locked = resolve(spec(f"path:{gguf}"), settings=settings, report=lambda line: None)
    finally:
        os.umask(before)
    folder = Path(locked.folder)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}


def test_a_file_cut_short_is_made_again(settings: Settings, gguf: Path) -> None:
    locked = resolve(spec(f"path:{gguf}"), settings=settings, report=lambda line: None)
    weights = Path(locked.folder) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert find(spec(f"path:{gguf}"), settings) is None
    assert resolve(spec(f"path:{gguf}"), settings=settings, report=lambda line: None) == locked


def test_a_maker_that_fails_leaves_nothing(settings: Settings) -> None:
    def make(into: Path) -> None:
        (into / "part").write_text("x")
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        build(settings, "key", make, lambda line: None)
    assert [path.name for path in (settings.cache / "models").iterdir()] == ["locks"]
    assert complete(settings, "key") is None


def test_a_folder_without_its_marker_is_replaced(settings: Settings) -> None:
    folder = settings.cache / "models" / "key"
    folder.mkdir(parents=True)
    (folder / "old").write_text("x")
    build(settings, "key", lambda into: (into / "new").touch(), lambda line: None)
    assert sorted(path.name for path in folder.iterdir()) == [MARKER, "new"]
    assert complete(settings, "key") == (folder, ("new",))


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    settings = Settings(cache=tmp_path / "file")
    with pytest.raises(StorageError, match="LONGCTX_CACHE"):
        build(settings, "key", lambda into: None, lambda line: None)
