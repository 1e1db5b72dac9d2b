"""Two small sources, and a server on this machine that is both GitHub and the hub for them."""

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from longctx.evals import sources
from longctx.evals.data import Archive, File, Repository, Source
from longctx.orchestrator.data import network
from longctx.orchestrator.settings import Settings

COMMIT, FIRST, SECOND = "a" * 40, "1" * 40, "2" * 40
CONFIG = b'{"one": "{text}"}'
NOTES = {"b.txt": b"second", "a.txt": b"first"}


def row(number: int, **more: Any) -> dict[str, Any]:
    return {"_id": f"r{number}", "text": "some text", **more}


def lines(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(one) + "\n" for one in rows).encode()


SETS = {"one": lines(row(0), row(1)), "two": lines(row(2))}


def packed(sets: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in sets.items():
            file.writestr(f"data/{name}.jsonl", text)
    return content.getvalue()


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


_CONFIG = File(path="texts/config.json", upstream="conf/config.json", sha256=sha(CONFIG))
TEXTS = Source(
    name="texts",
    summary="rows and a configuration",
    repositories=(Repository(name="some/texts", commit=COMMIT, files=(_CONFIG,)),),
    archive=Archive(
        name="some/sets",
        file="data.zip",
        files=tuple(
            File(path=f"texts/{name}.jsonl", upstream=f"data/{name}.jsonl", sha256=None, rows=rows)
            for name, rows in (("one", 2), ("two", 3))
        ),
    ),
    fields={"_id": ("text",), "text": ("text",)},
)
PAGES = Source(
    name="pages",
    summary="pages",
    repositories=(
        Repository(
            name="some/pages",
            commit=COMMIT,
            files=tuple(File(path=f"pages/all/{name}", upstream=f"deep/{name}", sha256=sha(text)) for name, text in NOTES.items()),
        ),
    ),
)


@dataclass
class Server:
    """What is served. ``asked`` has the path of every GET; ``breaks`` says how many archives are cut off halfway."""

    files: dict[str, bytes] = field(default_factory=dict)
    archives: dict[str, bytes] = field(default_factory=dict)
    main: str = FIRST
    asked: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    breaks: int = 0
    fails: list[int] = field(default_factory=list)
    """Statuses of the next answers to requests for single files."""

    def answer(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        if path.startswith("/api/datasets/some/sets"):
            revision = path.partition("/revision/")[2] or "main"
            commit = self.main if revision == "main" else revision
            return 200, json.dumps({"id": "some/sets", "sha": commit, "siblings": [{"rfilename": "data.zip"}]}).encode(), {}
        if path.startswith("/datasets/some/sets/resolve/"):
            commit = path.split("/")[5]
            content = self.archives[commit]
            return 200, content, {"ETag": f'"{sha(content)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if self.fails:
            return self.fails.pop(0), b"", {}
        return (200, self.files[path], {}) if path in self.files else (404, b"", {})


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    served = Server(archives={FIRST: packed(SETS)})
    served.files[f"/some/texts/{COMMIT}/conf/config.json"] = CONFIG
    for name, text in NOTES.items():
        served.files[f"/some/pages/{COMMIT}/deep/{name}"] = text

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _respond(self, body: bool) -> None:
            path = self.path.partition("?")[0]
            status, content, headers = served.answer(path)
            asked = self.headers.get("Range")
            if body:
                served.asked.append(path)
            if asked and body and "/resolve/" in path:
                served.ranges.append(asked)
                start = int(asked.removeprefix("bytes=").partition("-")[0])
                if start >= len(content):
                    status, content = 416, b""
                    start = 0
                else:
                    status = 206
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                content = content[start:]
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if not body:
                return
            if "/resolve/" in path and served.breaks:
                served.breaks -= 1
                self.wfile.write(content[: len(content) // 2])
                self.wfile.flush()
                self.connection.close()
                self.close_connection = True
                return
            self.wfile.write(content)

        def do_GET(self) -> None:
            self._respond(True)

        def do_HEAD(self) -> None:
            self._respond(False)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{http.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(network, "RAW", address)
    monkeypatch.setattr(network.time, "sleep", lambda _: None)
    yield served
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def small_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the small sources in place of the real ones."""
    for name in list(sources.SOURCES):
        monkeypatch.delitem(sources.SOURCES, name)  # type: ignore[arg-type]
    for one in (TEXTS, PAGES):
        monkeypatch.setitem(sources.SOURCES, one.name, one)  # type: ignore[arg-type]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache=tmp_path / "cache", data=tmp_path / "data")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder laid out as a data folder is, with everything in it."""
    made = tmp_path / "brought"
    (made / "texts").mkdir(parents=True)
    (made / "pages" / "all").mkdir(parents=True)
    (made / "texts" / "config.json").write_bytes(CONFIG)
    for name, text in SETS.items():
        (made / "texts" / f"{name}.jsonl").write_bytes(text)
    for name, text in NOTES.items():
        (made / "pages" / "all" / name).write_bytes(text)
    return made
