"""Removing what untrusted code left, and finding processes by their mark."""

import os
import subprocess
import sys
from pathlib import Path

from longctx.orchestrator.engines.group import MARK, marked, oom_kills, remove_tree


def test_links_are_never_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    outside.chmod(0o750)
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "link").symlink_to(outside)
    (tree / "link").symlink_to(outside)
    remove_tree(tree)
    assert not tree.exists() and (outside / "kept").exists() and outside.stat().st_mode & 0o777 == 0o750


def test_a_tree_that_is_a_link_is_only_unlinked(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "tree").symlink_to(outside)
    remove_tree(tmp_path / "tree")
    remove_tree(tmp_path / "tree")
    assert outside.is_dir() and not (tmp_path / "tree").is_symlink()


def test_closed_folders_are_opened(tmp_path: Path) -> None:
    closed = tmp_path / "tree" / "closed"
    (closed / "inner").mkdir(parents=True)
    (closed / "inner" / "file").touch()
    (closed / "inner").chmod(0)
    closed.chmod(0)
    remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


def test_a_process_is_known_by_its_mark() -> None:
    mark = f"test-{os.getpid()}"
    with subprocess.Popen([sys.executable, "-c", "input()"], env={MARK: mark}, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        while not marked(mark):
            assert process.poll() is None
        assert marked(mark) == [process.pid]
        process.stdin.write(b"\n")
    assert marked(mark) == [] and oom_kills() >= 0
