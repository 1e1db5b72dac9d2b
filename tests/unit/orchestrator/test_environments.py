"""Environments as written: found, read, hashed, and locked so that torch comes alone and no index is named."""

import os
import re
from pathlib import Path

import pytest
from unit.orchestrator.builders import HELD, record_system

from longctx.orchestrator import environments
from longctx.orchestrator.errors import ManifestError

TEXT = """
name: mine
summary: For a test.
python: ["3.12", "3.11"]
torch: {cpu: 2.13.0}
imports: [json]
"""
LOCK = "# made by hand\nsix==1.17.0 \\\n    --hash=sha256:" + "0" * 64 + "\n    # via nothing\n"


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "images" / "mine"
    folder.mkdir(parents=True)
    (folder / "environment.yaml").write_text(TEXT)
    (folder / "requirements.lock").write_text(LOCK)
    monkeypatch.setenv("LONGCTX_PATH", f"{tmp_path / 'absent'}{os.pathsep}{tmp_path}")
    return folder


def test_own_environments_and_those_on_the_path_are_found(mine: Path) -> None:
    assert {"tf5", "tf4.40", "mine"} <= set(environments.environment_names())
    found = environments.find_environment("mine")
    assert found.folder == mine and found.lock == mine / "requirements.lock" and found.spec.python == ("3.12", "3.11")


def test_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(ManifestError, match=r"'tf9'.*tf4\.40, tf5"):
        environments.load_environment("tf9")


def test_one_name_in_two_places_is_refused(mine: Path) -> None:
    mine.rename(mine.with_name("tf5"))
    with pytest.raises(ManifestError, match="the name is taken by"):
        environments.environment_names()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('["3.12", "3.11"]', "[3.12]", r"environment\.yaml: python\.0"),
        ('["3.12", "3.11"]', '["3"]', "no minor version"),
        ("name: mine", "name: yours", "but the folder is 'mine'"),
        ("imports: [json]", "imports: [json", r"environment\.yaml: .*line"),
        ("imports: [json]", "imports: [json]\npins: 1", "pins: Extra inputs"),
    ],
)
def test_a_wrong_file_is_named_with_its_key(mine: Path, before: str, after: str, message: str) -> None:
    (mine / "environment.yaml").write_text(TEXT.replace(before, after))
    with pytest.raises(ManifestError, match=re.compile(message, re.DOTALL)):
        environments.find_environment("mine")


def test_a_missing_lock_says_how_it_is_made(mine: Path) -> None:
    (mine / "requirements.lock").unlink()
    with pytest.raises(ManifestError, match=r"images/lock\.py"):
        environments.find_environment("mine")


def test_the_hash_covers_what_is_installed_and_no_comment(mine: Path) -> None:
    first = environments.find_environment("mine").sha256
    (mine / "environment.yaml").write_text(TEXT.replace("For a test.", "Said otherwise.") + "# a comment\n")
    (mine / "requirements.lock").write_text("# said otherwise\n\n" + LOCK)
    assert environments.find_environment("mine").sha256 == first
    (mine / "requirements.lock").write_text(LOCK.replace("1.17.0", "1.16.0"))
    changed = environments.find_environment("mine").sha256
    (mine / "environment.yaml").write_text(TEXT.replace("2.13.0", "2.12.0"))
    assert len({first, changed, environments.find_environment("mine").sha256}) == 3


@pytest.mark.parametrize("name", ["tf5", "tf4.40"])
def test_own_locks_hold_everything_but_torch_with_hashes_and_no_host(name: str) -> None:
    found = environments.find_environment(name)
    text = found.lock.read_text()
    pins = re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", text, re.MULTILINE)
    names = {package for package, _ in pins}
    assert {"transformers", "tokenizers", "safetensors", "numpy", "sentencepiece", "protobuf", "jinja2"} <= names
    assert {"filelock", "sympy", "mpmath", "networkx", "fsspec", "typing-extensions", "markupsafe", "setuptools"} <= names, (
        "what torch needs"
    )
    assert not {package for package in names if package in ("torch", "triton") or package.startswith("nvidia-")}
    assert "://" not in text and "-index" not in text and "find-links" not in text
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(pins) and all("--hash=sha256:" in entry for entry in entries)


def test_every_environment_pins_one_transformers_version() -> None:
    pinned = {
        name: re.findall(r"^transformers==(\S+)", environments.find_environment(name).lock.read_text(), re.MULTILINE)
        for name in environments.environment_names()
    }
    assert pinned["tf5"] == ["5.23.0"] and pinned["tf4.40"] == ["4.40.2"]
    assert all(len(versions) <= 1 for versions in pinned.values())


def test_nothing_stands_in_where_nothing_was_recorded() -> None:
    assert environments.recorded() is None
    assert environments.in_force("tf5") == "tf5" and environments.as_written("system") == "system"


def test_the_hosts_own_python_stands_in_for_what_it_is_like() -> None:
    folder = record_system().folder
    assert folder == environments.own_place() / "system" and "system" in environments.environment_names()
    assert (environments.in_force("tf5"), environments.in_force("tf4.40")) == ("system", "tf4.40")
    assert (environments.as_written("system"), environments.as_written("tf4.40")) == ("tf5", "tf4.40")
    assert environments.find_environment("tf5").spec.system is None, "the environment itself stays what it is"


def test_a_system_environment_without_its_section_stands_in_for_nothing() -> None:
    folder = record_system().folder
    file = folder / "environment.yaml"
    file.write_text(file.read_text().partition("system:\n  like")[0])
    assert environments.recorded() is None and environments.in_force("tf5") == "tf5"


@pytest.mark.parametrize("damage", ["imports: [json", "pins: 1\n", None])
def test_a_damaged_record_says_how_it_is_made_anew(damage: str | None) -> None:
    folder = record_system().folder
    if damage is None:
        (folder / "requirements.lock").unlink()
    else:
        (folder / "environment.yaml").write_text(damage)
    with pytest.raises(ManifestError, match=r"images/system[\s\S]*`longctx config system` records it again"):
        environments.in_force("tf5")


def test_the_hash_covers_what_was_recorded() -> None:
    hashes = set()
    for changes in ({}, {"torch_record_sha256": "c" * 64}, {"packages": HELD | {"numpy": "2.3.1"}}):
        record_system(changes=changes)
        hashes.add(environments.find_environment("system").sha256)
    assert len(hashes) == 3
