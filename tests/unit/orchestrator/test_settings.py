"""The host's settings: one file, a few variables, and clear words where they are wrong."""

from pathlib import Path

import pytest

from longctx.orchestrator.errors import UsageError
from longctx.orchestrator.settings import Settings, config_path, load_settings


@pytest.fixture(autouse=True)
def _no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("UV_FIND_LINKS", "PIP_FIND_LINKS", "SSL_CERT_FILE"):
        monkeypatch.delenv(variable, raising=False)


def config(text: str | bytes) -> Path:
    path = config_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_without_a_file_all_is_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LONGCTX_CACHE")
    found = load_settings()
    home = Path.home()
    assert (found.cache, found.data) == (home / ".cache" / "longctx", home / ".cache" / "longctx" / "data")
    assert (found.runs, found.wheelhouse, found.offline) == (Path("runs"), None, False)


def test_the_file_is_read_and_variables_override_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config("runs: ~/mine\noffline: true\ncache: /elsewhere\nwheelhouse: ~/wheels\n")
    monkeypatch.setenv("LONGCTX_CACHE", str(tmp_path / "cache"))
    found = load_settings()
    assert (found.runs, found.wheelhouse) == (Path.home() / "mine", Path.home() / "wheels")
    assert found.offline is True
    assert (found.cache, found.data) == (tmp_path / "cache", tmp_path / "cache" / "data")


def test_a_file_may_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("offline: true")
    monkeypatch.setenv("LONGCTX_CONFIG", str(tmp_path / "mine.yaml"))
    assert load_settings().offline is True


def test_an_empty_file_is_no_mistake() -> None:
    config("# nothing yet\n")
    assert load_settings().offline is False


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ofline: true", r"config\.yaml: ofline: Extra inputs are not permitted\nAllowed keys: cache, runs"),
        ("offline: maybe", r"config\.yaml: offline: Input should be a valid boolean"),
        ("cache: [1]", r"config\.yaml: cache: "),
        ("- a\n- b", r"config\.yaml: it must hold `key: value` lines"),
        ("just words", r"config\.yaml: it must hold"),
        ("a: [1", r"config\.yaml: while parsing"),
        ("1: 2", r"config\.yaml: 1: Extra inputs"),
        (b"\xff\xfe\x00", r"config\.yaml: .*decode"),
    ],
)
def test_a_wrong_file_is_named_with_the_key(text: str | bytes, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LONGCTX_CACHE")  # it overrides the file
    config(text)
    with pytest.raises(UsageError, match=told):
        load_settings()


def test_wheels_come_from_where_uv_and_pip_look(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", f"https://nowhere.example/ {tmp_path}")
    assert load_settings().wheelhouse == tmp_path
    config(f"wheelhouse: {tmp_path / 'mine'}")
    assert load_settings().wheelhouse == tmp_path / "mine"


def test_every_setting_says_what_it_means() -> None:
    assert all(field.description for field in Settings.model_fields.values())
