"""Against a small server on this machine that speaks the hub's protocol, and a hub cache in a temporary folder."""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants, snapshot_download

from longctx.orchestrator.errors import ModelError
from longctx.orchestrator.models import find, resolve
from longctx.orchestrator.settings import Settings

from .conftest import spec

FIRST, SECOND = "1" * 40, "2" * 40


def safetensors(value: bytes) -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(value)], "data_offsets": [0, len(value)]}}).encode()
    return len(header).to_bytes(8, "little") + header + value


FILES = {
    "config.json": b'{"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 8192}',
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors.index.json": b'{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}',
    "model-00001-of-00002.safetensors": safetensors(b"one"),
    "model-00002-of-00002.safetensors": safetensors(b"two"),
    "consolidated.safetensors": safetensors(b"the same again"),
    "pytorch_model.bin": b"a pickle",
    "original/params.json": b"{}",
    "modeling.py": b"raise SystemExit",
    "README.md": b"text",
}  # fmt: skip
WANTED = {
    "config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors.index.json", "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
}  # fmt: skip


@dataclass
class Hub:
    """One repository ``owner/name``. ``error`` is what file requests get (the hub's own error code), ``asked`` every request."""

    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    main: str = FIRST
    error: str | None = None
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        if path.startswith("/api/models/owner/name"):
            revision = path.partition("/tree/")[2] or path.partition("/revision/")[2] or "main"
            if revision not in ("main", FIRST, SECOND):
                return 404, b"{}", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}
            if "/tree/" in path:
                return 200, json.dumps([self._entry(name) for name in self.files]).encode(), {}
            commit = self.main if revision == "main" else revision
            return (
                200,
                json.dumps({"id": "owner/name", "sha": commit, "siblings": [{"rfilename": name} for name in self.files]}).encode(),
                {},
            )
        if path.startswith("/owner/name/resolve/") and self.error is None:
            commit, _, name = path.removeprefix("/owner/name/resolve/").partition("/")
            return 200, self.files[name], {"ETag": f'"{hashlib.sha1(self.files[name]).hexdigest()}"', "X-Repo-Commit": commit}
        return 401 if self.error is None else 403, b"{}", {"X-Error-Code": self.error or "RepoNotFound", "X-Error-Message": "no"}

    def _entry(self, name: str) -> dict[str, object]:
        return {"type": "file", "path": name, "size": len(self.files[name]), "oid": hashlib.sha1(self.files[name]).hexdigest()}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    served = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _respond(self, body: bool) -> None:
            path = self.path.partition("?")[0]
            served.asked.append(path)
            status, content, headers = served.answer(path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def do_GET(self) -> None:
            self._respond(True)

        def do_HEAD(self) -> None:
            self._respond(False)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def silent(line: str) -> None:
    pass


def message(source: str, settings: Settings, *, fetch: bool = True) -> str:
    with pytest.raises(ModelError) as caught:
        resolve(spec(source), settings=settings, report=silent, fetch=fetch)
    assert len(str(caught.value).splitlines()) == 2 and "a-model" in str(caught.value)
    return str(caught.value)


def test_only_what_a_job_reads_is_fetched(hub: Hub, settings: Settings) -> None:
    wanted = spec("hf:owner/name")
    assert find(wanted, settings) is None and not hub.asked
    locked = resolve(wanted, settings=settings, report=silent)
    assert {file.path for file in locked.files} == WANTED
    assert {path.rpartition("/")[2] for path in hub.asked if "/resolve/" in path} == WANTED
    assert locked.revision == FIRST
    for file in locked.files:
        assert file.sha256 == hashlib.sha256(FILES[file.path]).hexdigest()


def test_a_branch_stays_where_it_was_first_seen(hub: Hub, settings: Settings) -> None:
    locked = resolve(spec("hf:owner/name@main"), settings=settings, report=silent)
    hub.main = SECOND
    hub.asked.clear()
    assert find(spec("hf:owner/name@main"), settings) == locked
    assert resolve(spec("hf:owner/name@main"), settings=settings, report=silent) == locked
    assert not hub.asked
    assert resolve(spec(f"hf:owner/name@{SECOND}"), settings=settings, report=silent).revision == SECOND


def test_code_comes_only_where_it_is_trusted(hub: Hub, settings: Settings) -> None:
    locked = resolve(spec(f"hf:owner/name@{FIRST}", trust_remote_code=True), settings=settings, report=silent)
    assert {file.path for file in locked.files} == WANTED | {"modeling.py"} and locked.job.trust_remote_code
    plain = resolve(spec(f"hf:owner/name@{FIRST}"), settings=settings, report=silent)
    assert {file.path for file in plain.files} == WANTED


def test_a_file_missing_from_the_cache_is_fetched_again(hub: Hub, settings: Settings) -> None:
    locked = resolve(spec("hf:owner/name"), settings=settings, report=silent)
    (Path(locked.folder) / "tokenizer.json").unlink()
    assert find(spec("hf:owner/name"), settings) is None
    assert resolve(spec("hf:owner/name"), settings=settings, report=silent).identity_sha256 == locked.identity_sha256


@pytest.mark.parametrize("how", ["offline", "unreachable"])
def test_a_whole_model_in_the_hubs_cache_needs_no_network(
    how: str, hub: Hub, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetched by another program: no record of ours."""
    snapshot_download("owner/name", revision=FIRST, endpoint=os.environ["HF_ENDPOINT"], allow_patterns=sorted(WANTED))
    no_network(monkeypatch)
    lines: list[str] = []
    locked = resolve(spec(f"hf:owner/name@{FIRST}"), settings=settings, report=lines.append, fetch=how != "offline")
    assert locked.revision == FIRST and {file.path for file in locked.files} == WANTED
    assert any("taking commit 111111111111 from the hub's cache" in line for line in lines)


def test_part_of_a_model_in_the_hubs_cache_is_not_enough(hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    part = sorted(WANTED - {"model-00002-of-00002.safetensors"})
    snapshot_download("owner/name", revision=FIRST, endpoint=os.environ["HF_ENDPOINT"], allow_patterns=part)
    said = message(f"hf:owner/name@{FIRST}", settings, fetch=False)
    assert "only partly in the hub's cache" in said and "model-00002-of-00002.safetensors" in said
    assert {file.path for file in resolve(spec(f"hf:owner/name@{FIRST}"), settings=settings, report=silent).files} == WANTED


def test_nothing_there_and_no_network(hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nothing is fetched now (offline)" in message("hf:owner/name", settings, fetch=False)
    assert not hub.asked
    no_network(monkeypatch)
    assert "the hub cannot be reached" in message("hf:owner/name", settings)


@pytest.mark.parametrize(
    ("source", "error", "says"),
    [
        ("hf:owner/other", None, "knows no repository owner/other, or it is private"),
        ("hf:owner/name@v9", None, "has no revision v9"),
        ("hf:owner/name", "GatedRepo", "accept a licence first"),
    ],
)
def test_refusals_of_the_hub(source: str, error: str | None, says: str, hub: Hub, settings: Settings) -> None:
    hub.error = error
    assert says in message(source, settings)


def test_pickles_are_refused_before_they_are_fetched(hub: Hub, settings: Settings) -> None:
    hub.files = {name: FILES[name] for name in ("config.json", "tokenizer.json", "pytorch_model.bin")}
    with pytest.raises(ModelError, match=r"pickles only \(such as pytorch_model\.bin\)"):
        resolve(spec("hf:owner/name"), settings=settings, report=silent)
    assert not [path for path in hub.asked if "/resolve/" in path]
