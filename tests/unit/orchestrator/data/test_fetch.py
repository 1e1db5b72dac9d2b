"""Fetching: from a server on this machine, and from folders."""

import errno
import json
import random
from pathlib import Path

import pytest

from longctx.orchestrator import store
from longctx.orchestrator.data import check, fetch, network
from longctx.orchestrator.data.record import load
from longctx.orchestrator.errors import DataError, RunLocked, StorageError
from longctx.orchestrator.settings import Settings

from .conftest import COMMIT, CONFIG, FIRST, NOTES, SECOND, SETS, Server, lines, packed, row, sha

DATA = {"texts/config.json": CONFIG, **{f"texts/{name}.jsonl": text for name, text in SETS.items()}}


def silent(line: str) -> None:
    pass


def contents(data: Path, below: str) -> dict[str, bytes]:
    return {path.relative_to(data).as_posix(): path.read_bytes() for path in sorted((data / below).rglob("*")) if path.is_file()}


def data_of(settings: Settings) -> Path:
    assert settings.data is not None
    return settings.data


def test_everything_is_fetched_checked_and_recorded(server: Server, settings: Settings) -> None:
    made = fetch("texts", settings, silent)
    data = data_of(settings)
    assert contents(data, "texts") == DATA
    assert made == load(data).sources["texts"]
    assert (made.origin, made.revisions) == ("network", {"some/texts": COMMIT, "hf:some/sets": FIRST})
    assert made.archive_sha256 == sha(server.archives[FIRST])
    one = made.files["texts/one.jsonl"]
    assert (one.rows, one.of, one.size, one.sha256) == (2, 2, len(SETS["one"]), sha(SETS["one"]))
    assert made.files["texts/config.json"].rows is None
    assert not (data / ".download").exists(), "the archive is not kept beside what was in it"


def test_what_is_here_is_not_fetched_again(server: Server, settings: Settings) -> None:
    first = fetch("texts", settings, silent)
    server.asked.clear()
    assert fetch("texts", settings, silent) == first and not server.asked
    server.archives.clear()
    assert fetch("texts", settings.model_copy(update={"offline": True}), silent) == first


def test_a_broken_set_is_fetched_again_at_the_same_commit(server: Server, settings: Settings) -> None:
    first = fetch("texts", settings, silent)
    server.main = SECOND
    server.archives[SECOND] = packed({**SETS, "one": lines(row(9))})
    (data_of(settings) / "texts/two.jsonl").write_bytes(b"cut")
    assert fetch("texts", settings, silent) == first
    assert contents(data_of(settings), "texts") == DATA


def start_of(asked: str) -> int:
    return int(asked.removeprefix("bytes=").partition("-")[0])


def test_a_download_that_broke_off_goes_on(server: Server, settings: Settings) -> None:
    content = server.archives[FIRST] = packed({**SETS, "pad": random.Random(1).randbytes(100_000)})
    server.breaks = 2
    fetch("texts", settings, silent)
    assert contents(data_of(settings), "texts") == DATA
    first, second = server.ranges
    assert len(content) // 3 < start_of(first) < start_of(second), "from where it broke off"


def test_a_download_that_was_given_up_goes_on_another_day(server: Server, settings: Settings) -> None:
    server.archives[FIRST] = packed({**SETS, "pad": random.Random(1).randbytes(100_000)})
    server.breaks = network.TRIES
    with pytest.raises(DataError, match="texts cannot be fetched"):
        fetch("texts", settings, silent)
    assert not (data_of(settings) / "texts/one.jsonl").exists()
    before = start_of(server.ranges[-1])
    fetch("texts", settings, silent)
    assert contents(data_of(settings), "texts") == DATA and start_of(server.ranges[-1]) > before


def test_an_unfinished_file_that_is_too_long_is_begun_again(server: Server, settings: Settings) -> None:
    scratch = data_of(settings) / ".download"
    scratch.mkdir(parents=True)
    (scratch / f"{FIRST}-data.zip.part").write_bytes(b"x" * 10**6)
    fetch("texts", settings, silent)
    assert contents(data_of(settings), "texts") == DATA


def test_another_archive_than_before_is_refused(server: Server, settings: Settings) -> None:
    fetch("texts", settings, silent)
    server.archives[FIRST] = packed({**SETS, "one": lines(row(9))})
    (data_of(settings) / "texts/two.jsonl").unlink()
    with pytest.raises(DataError, match="is not what it was: SHA-256"):
        fetch("texts", settings, silent)
    assert (data_of(settings) / "texts/one.jsonl").read_bytes() == SETS["one"]


def test_a_damaged_archive_is_named(server: Server, settings: Settings) -> None:
    server.archives[FIRST] = b"no archive"
    with pytest.raises(DataError, match="is damaged"):
        fetch("texts", settings, silent)
    assert "texts" not in load(data_of(settings)).sources


def test_a_wrong_row_in_the_archive_is_named(server: Server, settings: Settings) -> None:
    server.archives[FIRST] = packed({**SETS, "two": lines(row(1), {"_id": "x"})})
    with pytest.raises(DataError, match=r"texts/two.jsonl:2: the row has no 'text'"):
        fetch("texts", settings, silent)
    assert not (data_of(settings) / "texts/two.jsonl").exists()


def test_a_file_that_is_not_the_pinned_one_is_refused(server: Server, settings: Settings) -> None:
    server.files[f"/some/pages/{COMMIT}/deep/a.txt"] = b"log in here"
    with pytest.raises(DataError, match=r"deep/a.txt is not what it should be: SHA-256 .*pinned") as caught:
        fetch("pages", settings, silent)
    assert "--from DIR" in caught.value.next_step
    assert not (data_of(settings) / "pages/all/a.txt").exists()
    server.files[f"/some/pages/{COMMIT}/deep/a.txt"] = NOTES["a.txt"]
    server.asked.clear()
    fetch("pages", settings, silent)
    assert [path.rpartition("/")[2] for path in server.asked] == ["a.txt"], "the other one stayed"


def test_a_server_in_trouble_is_asked_again(server: Server, settings: Settings) -> None:
    server.fails = [503, 500]
    fetch("pages", settings, silent)
    server.fails = [503, 503, 503]
    (data_of(settings) / "pages/all/a.txt").unlink()
    with pytest.raises(DataError, match="503"):
        fetch("pages", settings, silent)


def test_a_file_that_is_gone_is_said_so(server: Server, settings: Settings) -> None:
    server.files.clear()
    with pytest.raises(DataError, match=r"is gone \(404\)"):
        fetch("pages", settings, silent)


@pytest.mark.parametrize("name", ["texts", "pages"])
def test_without_a_network_the_next_step_is_a_folder(name: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "RAW", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for given in (settings, settings.model_copy(update={"offline": True})):
        with pytest.raises(DataError, match=f"{name} cannot be fetched: ") as caught:
            fetch(name, given, silent)
        assert f"longctx data fetch {name} --data {settings.data} --from DIR" in caught.value.next_step


def test_the_hub_alone_may_be_out_of_reach(server: Server, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"texts cannot be fetched: http://127.0.0.1:9: "):
        fetch("texts", settings, silent)
    assert (data_of(settings) / "texts/config.json").read_bytes() == CONFIG


def test_a_full_disk_is_said_so_and_leaves_nothing_half(server: Server, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        fetch("pages", settings, silent)
    assert not [path for path in data_of(settings).rglob("*") if path.is_file() and path.name != ".lock"]


def test_two_at_once_do_not_mix(settings: Settings, folder: Path) -> None:
    data_of(settings).mkdir()
    with store.locked(data_of(settings) / ".lock", "it"), pytest.raises(RunLocked, match=r"The data folder .* is in use"):
        fetch("pages", settings, silent, origin=folder)


def test_an_unknown_name_has_a_neighbour(settings: Settings) -> None:
    with pytest.raises(DataError, match=r"no data called 'text'.*\n.*Did you mean 'texts'"):
        fetch("text", settings, silent)


# From a folder


def test_a_folder_is_copied_and_recorded_as_the_subset_it_is(settings: Settings, folder: Path) -> None:
    said: list[str] = []
    made = fetch("texts", settings, said.append, origin=folder)
    assert contents(data_of(settings), "texts") == DATA
    assert made.origin == str(folder) and made.archive_sha256 is None
    assert (made.files["texts/two.jsonl"].rows, made.files["texts/two.jsonl"].of) == (1, 3)
    assert "subsets: two 1 of 3 rows" in said
    found = check.verify([], data_of(settings), silent)
    assert [one.state for one in found["texts"]] == ["right"] * 3 and "pages" not in found


def test_what_came_from_a_folder_can_be_a_folder_to_take_from(settings: Settings, folder: Path, tmp_path: Path) -> None:
    first = fetch("texts", settings, silent, origin=folder)
    again = settings.model_copy(update={"data": tmp_path / "second"})
    assert fetch("texts", again, silent, origin=data_of(settings)).files == first.files
    assert fetch("texts", again, silent, origin=tmp_path / "second").files == first.files, "onto itself"
    assert contents(tmp_path / "second", "texts") == DATA


@pytest.mark.parametrize("layout", ["flat", "upstream", "inner", "zip", "zip inside"])
def test_folders_may_be_laid_out_as_the_originals_are(layout: str, settings: Settings, tmp_path: Path) -> None:
    made = tmp_path / "other"
    places = {
        "flat": {"config.json": CONFIG, "one.jsonl": SETS["one"], "two.jsonl": SETS["two"]},
        "upstream": {"conf/config.json": CONFIG, "data/one.jsonl": SETS["one"], "data/two.jsonl": SETS["two"]},
        "inner": {"texts/conf/config.json": CONFIG, "texts/data/one.jsonl": SETS["one"], "texts/data/two.jsonl": SETS["two"]},
        "zip": {"config.json": CONFIG, "data.zip": packed(SETS)},
        "zip inside": {"texts/config.json": CONFIG, "texts/data.zip": packed(SETS)},
    }
    for name, content in places[layout].items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(content)
    fetch("texts", settings, silent, origin=made)
    assert contents(data_of(settings), "texts") == DATA
    assert not list(data_of(settings).glob(".unpack-*"))


def test_sets_that_a_folder_lacks_are_named(settings: Settings, folder: Path) -> None:
    (folder / "texts/two.jsonl").unlink()
    said: list[str] = []
    made = fetch("texts", settings, said.append, origin=folder)
    assert set(made.files) == {"texts/config.json", "texts/one.jsonl"} and "not in that folder: two" in said


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (("texts/config.json", None), "lacks texts/config.json"),
        (("texts/config.json", b"{}"), "config.json is not the file that is wanted: SHA-256"),
        (("texts/one.jsonl", b'{"_id": 3, "text": ""}\n'), "texts/one.jsonl:1: '_id' is int where text belongs"),
        (("texts/one.jsonl", b"\n"), "has no rows"),
    ],
)
def test_a_folder_with_something_wrong_changes_nothing(
    spoil: tuple[str, bytes | None], says: str, settings: Settings, folder: Path
) -> None:
    name, content = spoil
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        fetch("texts", settings, silent, origin=folder)
    assert caught.value.next_step
    assert not (data_of(settings) / "texts").exists() and not load(data_of(settings)).sources


def test_a_folder_without_any_set_or_no_folder(settings: Settings, folder: Path) -> None:
    for name in SETS:
        (folder / "texts" / f"{name}.jsonl").unlink()
    with pytest.raises(DataError, match="holds none of the 2 sets"):
        fetch("texts", settings, silent, origin=folder)
    with pytest.raises(DataError, match="there is no folder"):
        fetch("texts", settings, silent, origin=folder / "nowhere")
    (folder / "texts/data.zip").write_bytes(b"no archive")
    with pytest.raises(DataError, match="is not the archive that is wanted"):
        fetch("texts", settings, silent, origin=folder)


def test_a_network_fetch_after_a_folder_completes_it(server: Server, settings: Settings, folder: Path) -> None:
    (folder / "texts/two.jsonl").unlink()
    fetch("texts", settings, silent, origin=folder)
    made = fetch("texts", settings, silent)
    assert made.origin == "network" and contents(data_of(settings), "texts") == DATA


def test_a_record_of_another_shape_is_named(settings: Settings, folder: Path) -> None:
    data_of(settings).mkdir()
    (data_of(settings) / "lock.json").write_text(json.dumps({"schema_version": 1, "sources": {"texts": {"origin": "x"}}}))
    with pytest.raises(DataError, match=r"lock.json: sources.texts.files"):
        fetch("texts", settings, silent, origin=folder)
