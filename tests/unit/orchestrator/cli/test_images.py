"""``longctx images`` as a person meets it; what it calls is tested beside the logic."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longctx.orchestrator.builds import inventory
from longctx.orchestrator.builds.inventory import Entry, Pruned
from longctx.orchestrator.cli import main

Run = Callable[..., tuple[int, str, str]]
ENTRIES = (
    Entry(name="longctx/tf5:cpu-1", kind="environment", device="cpu", state="current", environment="tf5", id="a", size=1_584_000_000,
          shared=1_583_888_000),
    Entry(name="longctx/tf5:cuda-2", kind="environment", device="cuda", state="missing", environment="tf5"),
    Entry(name="sha256:0123456789abcdef", kind="family", device="cpu", state="stale", environment="tf5", id="b", size=7, shared=7),
)  # fmt: skip


@pytest.fixture
def longctx(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inventory, "open_maker", lambda settings: "maker")
    monkeypatch.setattr(inventory, "inventory", lambda maker, catalog: ENTRIES)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["images", *arguments])
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_the_list_says_what_is_shared_and_what_is_its_own(longctx: Run) -> None:
    code, out, _ = longctx("list")
    rows = [line.split() for line in out.splitlines() if "cpu" in line or "cuda" in line]
    assert code == 0
    assert rows[0] == ["longctx/tf5:cpu-1", "environment", "cpu", "current", "1.58", "GB", "1.58", "GB", "112", "kB"]
    assert rows[1] == ["longctx/tf5:cuda-2", "environment", "cuda", "missing"]
    assert rows[2][:3] == ["0123456789ab", "(no", "name)"]


@pytest.mark.parametrize(
    ("arguments", "found", "told"),
    [
        (("--dry-run",), Pruned(removed=("a", "b"), freed=2000), ["would remove a", "2 images; at least 2 kB would be free"]),
        (("--all",), Pruned(removed=("a",), kept={"b": "in use"}, freed=3 * 10**9), ["removed a", "kept b: in use", "3.00 GB freed"]),
        ((), Pruned(removed=()), ["Nothing to remove."]),
    ],
)
def test_prune(longctx: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], found: Pruned, told: list[str]) -> None:
    asked: list[dict[str, Any]] = []

    def prune(maker: Any, catalog: Any, **how: Any) -> Pruned:
        asked.append(how)
        return found

    monkeypatch.setattr(inventory, "prune", prune)
    code, out, _ = longctx("prune", *arguments)
    assert code == 0
    assert all(line in out for line in told)
    assert (asked[0]["everything"], asked[0]["dry_run"]) == ("--all" in arguments, "--dry-run" in arguments)


def test_export_names_the_file_and_how_to_load_it(longctx: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(maker: Any, names: tuple[str, ...], out: Path, progress: Callable[[int], None]) -> int:
        progress(5)
        out.write_text(" ".join(names))
        return 5

    monkeypatch.setattr(inventory, "export", export)
    code, out, _ = longctx("export", "tf5", "--out", "o.tar")
    assert (code, Path("o.tar").read_text()) == (0, "longctx/tf5:cpu-1")
    assert "docker load --input o.tar" in out


@pytest.mark.parametrize(("out", "told"), [(".", "that is a folder"), ("nowhere/o.tar", "its folder does not exist")])
def test_export_to_where_nothing_can_be_written(longctx: Run, out: str, told: str) -> None:
    code, _, err = longctx("export", "tf5", "--out", out)
    assert code == 2
    assert told in err


def test_build_passes_on_what_was_asked(longctx: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def build(maker: Any, names: Any, device: str, catalog: Any, methods: Any, report: Any) -> int:
        asked.append((list(names), device, [method.name for method in methods]))
        report("building")
        return 3

    monkeypatch.setattr(inventory, "build", build)
    code, out, _ = longctx("build", "tf5", "--device", "cuda", "--method", "full-kv")
    assert (code, asked) == (0, [(["tf5"], "cuda", ["full-kv"])])
    assert out.splitlines() == ["building", "3 images for cuda are there."]


def test_a_device_that_does_not_exist(longctx: Run) -> None:
    code, _, err = longctx("build", "--device", "tpu")
    assert code == 2
    assert "Allowed: auto, cpu, cuda" in err
