"""What uv is told: the settings, and the user's own indexes."""

from pathlib import Path

from longctx.orchestrator.engines.uv import REDIRECTING, uv_environment
from longctx.orchestrator.settings import Settings


def test_what_would_redirect_uv_is_left_out_and_the_rest_reaches_it() -> None:
    caller = dict.fromkeys(REDIRECTING, "x") | {
        "UV_INDEX_URL": "own",
        "UV_CACHE_DIR": "c",
        "NETRC": "n",
        "UV_HTTP_TIMEOUT": "9",
        "PIP_INDEX_URL": "pip",
    }
    found = uv_environment(Settings(), caller)
    assert found.items() >= {"UV_INDEX_URL": "own", "UV_CACHE_DIR": "c", "NETRC": "n", "UV_HTTP_TIMEOUT": "9"}.items()
    assert not set(REDIRECTING) - {"UV_NO_PROGRESS"} & found.keys()
    assert "UV_DEFAULT_INDEX" not in found, "uv's own variable wins over pip's"


def test_indexes_of_pip_stand_in() -> None:
    found = uv_environment(Settings(), {"PIP_INDEX_URL": "first", "PIP_EXTRA_INDEX_URL": "second", "PIP_CERT": "ca"})
    assert (found["UV_DEFAULT_INDEX"], found["UV_INDEX"], found["SSL_CERT_FILE"]) == ("first", "second", "ca")


def test_settings_reach_uv(tmp_path: Path) -> None:
    settings = Settings(wheelhouse=tmp_path, certificates=Path("/ca.pem"), proxy="http://proxy:1", offline=True)
    found = uv_environment(settings, {"UV_FIND_LINKS": "other", "SSL_CERT_FILE": "/else.pem", "https_proxy": "else"})
    assert found["UV_FIND_LINKS"] == f"{tmp_path},other"
    assert (found["SSL_CERT_FILE"], found["HTTPS_PROXY"], found["https_proxy"], found["UV_OFFLINE"]) == (
        "/ca.pem",
        "http://proxy:1",
        "http://proxy:1",
        "1",
    )
