"""Listing and verifying."""

from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from longctx.orchestrator.data import check, fetch
from longctx.orchestrator.errors import DataError
from longctx.orchestrator.settings import Settings

from .conftest import COMMIT, Server


def silent(line: str) -> None:
    pass


def shown(table: Table) -> str:
    console = Console(width=250)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def states(found: dict[str, list[check.Finding]]) -> dict[str, str]:
    return {one.path: one.state for findings in found.values() for one in findings}


@pytest.fixture
def data(settings: Settings, folder: Path) -> Path:
    fetch("texts", settings, silent, origin=folder)
    fetch("pages", settings, silent, origin=folder)
    assert settings.data is not None
    return settings.data


def test_all_is_right(data: Path) -> None:
    found = check.verify([], data, silent)
    assert set(states(found).values()) == {"right"} and len(states(found)) == 5
    assert check.complaint(found, data) is None
    assert check.totals(found) == ["texts: 3 files, 3 right", "pages: 2 files, 2 right"]


def test_what_is_wrong_is_named_with_what_mends_it(data: Path, folder: Path) -> None:
    (data / "texts/one.jsonl").write_text("{}\n")
    (data / "texts/two.jsonl").unlink()
    (data / "pages/all/a.txt").write_text("other")
    found = check.verify([], data, silent)
    assert states(found) == {
        "texts/config.json": "right", "texts/one.jsonl": "altered", "texts/two.jsonl": "missing", "pages/all/b.txt": "right",
        "pages/all/a.txt": "altered",
    }  # fmt: skip
    error = check.complaint(found, data)
    assert error is not None and error.exit_code == 5
    assert "texts/two.jsonl: missing" in str(error) and "pages/all/a.txt: altered (SHA-256" in str(error)
    assert f"longctx data fetch texts --data {data} --from {folder}" in error.next_step
    assert f"longctx data fetch pages --data {data} --from {folder}" in error.next_step
    assert check.complaint(check.verify(["texts"], data, silent), data) is not None


def test_what_came_by_network_is_mended_by_network(server: Server, settings: Settings) -> None:
    fetch("pages", settings, silent)
    assert settings.data is not None
    (settings.data / "pages/all/a.txt").unlink()
    error = check.complaint(check.verify([], settings.data, silent), settings.data)
    assert error is not None and error.next_step.endswith(f"longctx data fetch pages --data {settings.data}")


def test_a_folder_that_nobody_recorded_is_checked_as_far_as_can_be(folder: Path) -> None:
    found = check.verify([], folder, silent)
    assert states(found)["texts/one.jsonl"] == "unrecorded" and states(found)["texts/config.json"] == "right"
    assert check.complaint(found, folder) is None
    assert any("two 1 of 3" in line for line in check.totals(found))
    (folder / "texts/two.jsonl").write_text('{"_id": "x"}\n')
    (folder / "texts/config.json").unlink()
    found = check.verify(["texts"], folder, silent)
    assert states(found) == {"texts/config.json": "missing", "texts/one.jsonl": "unrecorded", "texts/two.jsonl": "wrong"}
    assert "texts/two.jsonl: wrong (1: the row has no 'text'.)" in str(check.complaint(found, folder))


def test_sets_may_be_absent_but_not_all(folder: Path) -> None:
    (folder / "texts/one.jsonl").unlink()
    assert check.complaint(check.verify(["texts"], folder, silent), folder) is None
    (folder / "texts/two.jsonl").unlink()
    assert states(check.verify(["texts"], folder, silent))["texts/one.jsonl"] == "missing"


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no data\.\nFetch some: longctx data fetch texts"):
        check.verify([], tmp_path, silent)
    assert set(states(check.verify(["pages"], tmp_path, silent)).values()) == {"missing"}


def test_the_overview(data: Path, folder: Path, tmp_path: Path) -> None:
    texts, pages = check.overview(data)
    assert (texts["files"], texts["files_of"], texts["rows"], texts["rows_of"], texts["origin"]) == (3, 3, 3, 5, str(folder))
    assert (pages["rows"], pages["revisions"]) == (None, {"some/pages": COMMIT})
    assert "3 of 3 files" in shown(check.overview_table([texts, pages])) and "3 of 5" in shown(check.overview_table([texts, pages]))
    assert check.overview(tmp_path / "none")[0]["files"] == 0


def test_one_source_file_by_file(data: Path) -> None:
    text = shown(check.files_table("texts", data))
    assert f"/some/texts/{COMMIT}/conf/config.json" in text and "data.zip of hf:some/sets: data/one.jsonl" in text
