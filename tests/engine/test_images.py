"""Images with a real engine: what cannot be built is told as what it is, both builders make the same, nothing is made twice."""

import contextlib
import functools
import http.server
import io
import json
import shutil
import ssl
import subprocess
import sys
import tarfile
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from longctx.orchestrator.builds import builder, inventory
from longctx.orchestrator.builds.make import Image, Maker
from longctx.orchestrator.builds.recipe import DOCKERFILE, Recipe
from longctx.orchestrator.catalog import Catalog
from longctx.orchestrator.engines.docker.client import connect
from longctx.orchestrator.environments import Environment, read_environment
from longctx.orchestrator.errors import EnvironmentFailed, UsageError
from longctx.orchestrator.settings import Settings

pytestmark = pytest.mark.docker

TINY = """\
name: {name}
summary: Nothing that could be had.
python: [{python}]
torch: {{cpu: 2.13.0}}
imports: [six]
"""


@pytest.fixture(autouse=True)
def _own_ways_to_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the caller's wheels, indexes, proxies and certificates out: these tests bring their own, and need no second try."""
    for name in ("UV_FIND_LINKS", "PIP_FIND_LINKS", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in (*builder.PROXIES, "SSL_CERT_FILE", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")


@pytest.fixture
def maker(tmp_path: Path, real_settings: Settings) -> Iterator[Callable[..., Maker]]:
    """Return a function from settings to a maker with a cache of its own."""
    docker = connect()

    def make(**more: object) -> Maker:
        return Maker(docker=docker, settings=Settings(cache=tmp_path / "cache", base_cpu=real_settings.base_cpu).model_copy(update=more))

    with contextlib.closing(docker):
        yield make


def environment(tmp_path: Path, python: str = '"3.11", "3.12", "3.13", "3.14"') -> Environment:
    name = f"tiny-{uuid.uuid4().hex[:8]}"
    folder = tmp_path / "images" / name
    folder.mkdir(parents=True)
    (folder / "environment.yaml").write_text(TINY.format(name=name, python=python))
    (folder / "requirements.lock").write_text("# nothing\n")
    return read_environment(folder)


def failure(maker: Maker, *wanted: Environment) -> EnvironmentFailed:
    with pytest.raises(EnvironmentFailed) as raised:
        maker.make([(one, "cpu") for one in wanted], print)
    assert [maker.image(one, "cpu") for one in wanted] == [None] * len(wanted)
    return raised.value


def test_a_base_that_cannot_be_pulled(maker: Callable[..., Maker], tmp_path: Path) -> None:
    told = failure(maker(base_cpu="127.0.0.1:9/nothing:1"), environment(tmp_path))
    assert "The base image 127.0.0.1:9/nothing:1 cannot be pulled: " in told.args[0]
    assert "refused" in told.args[0]
    assert "LONGCTX_BASE_CPU" in told.next_step


def having_base(made: Maker) -> None:
    """Skip, or fail where an engine is required, when the base of this host's settings cannot be had."""
    from tests.conftest import required

    try:
        made._base("cpu", print)
    except EnvironmentFailed as error:
        if "docker" in required():
            raise
        pytest.skip(str(error))


def test_a_base_whose_python_is_not_taken(maker: Callable[..., Maker], tmp_path: Path) -> None:
    having_base(maker())
    told = failure(maker(), environment(tmp_path, '"3.6"'))
    assert "takes 3.6" in told.args[0]
    assert "`base_cpu`" in told.next_step


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Return a certificate that signs itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make certificates with")
    key, made = folder / f"{name}.key", folder / f"{name}.pem"
    how = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", *how, "-keyout", str(key), "-out", str(made)]
    subprocess.run(command, check=True, capture_output=True)
    return made, key


class Empty(http.server.BaseHTTPRequestHandler):
    """An index without packages."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Quiet(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that hangs up on us is what these tests want."""


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """Serve an index by TLS with a certificate that nobody knows; yield its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate(tmp_path, "server"))
    with Quiet(("127.0.0.1", 0), Empty) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}/simple"
        server.shutdown()
        thread.join()


def test_a_ca_bundle_of_garbage(maker: Callable[..., Maker], tmp_path: Path, index: str) -> None:
    having_base(maker())
    (tmp_path / "garbage.pem").write_text("garbage\n")
    told = failure(maker(torch_index=index, certificates=tmp_path / "garbage.pem"), environment(tmp_path))
    assert "the CA bundle cannot be used" in told.args[0]
    assert "No valid certificates found" in told.args[0]


@pytest.mark.parametrize("count", [1, 2], ids=["build", "bake"])
def test_a_ca_bundle_that_does_not_sign(maker: Callable[..., Maker], tmp_path: Path, index: str, count: int) -> None:
    """That the server is reached at all needs the host's network and both secrets, for one image and for several at once."""
    having_base(maker())
    other, _ = certificate(tmp_path, "other")
    told = failure(maker(torch_index=index, certificates=other), *(environment(tmp_path) for _ in range(count)))
    assert "a server's certificate is not trusted inside the build" in told.args[0]
    assert "invalid peer certificate" in told.args[0]
    assert "`certificates`" in told.next_step


def test_an_index_that_is_away_and_its_password(maker: Callable[..., Maker], tmp_path: Path) -> None:
    having_base(maker())
    said: list[str] = []
    made = maker(torch_index="http://someone:passw0rd@127.0.0.1:9/simple")
    with pytest.raises(EnvironmentFailed) as raised:
        made.make([(environment(tmp_path), "cpu")], said.append)
    assert "the package index cannot be reached from the build" in raised.value.args[0]
    assert "Connection refused" in raised.value.args[0]
    assert "passw0rd" not in str(raised.value) + " ".join(said)


def test_bake_reads_its_file_as_build_reads_its_arguments(tmp_path: Path) -> None:
    program = builder.buildx()
    if program is None:
        pytest.skip("there is no docker buildx")
    recipe = Recipe(
        tag="longctx/try:1", stage="environment", labels={"longctx.image": "environment"}, network=True,
        arguments={"BASE": "a:1", "TORCH": "--no-deps torch==1"}, contexts={"tools": str(tmp_path)},
    )  # fmt: skip
    secret = tmp_path / "secret"
    secret.touch()
    file = tmp_path / "bake.json"
    file.write_text(json.dumps(builder.bake_file([recipe], {"index": secret}, {})))
    command = [*program, "bake", "--print", "--file", str(file)]
    read = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["target"]["longctx-try-1"]
    assert (read["target"], read["tags"], read["args"]) == ("environment", [recipe.tag], dict(recipe.arguments))
    assert (read["contexts"], read["labels"]) == (dict(recipe.contexts), dict(recipe.labels))
    assert Path(read["context"], read["dockerfile"]) == DOCKERFILE
    assert str(secret) in str(read["secret"])


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """Return staged code, as an engine is given it."""
    folder = tmp_path / "code" / uuid.uuid4().hex[:24]
    for name, text in {"runner/__main__.py": "print(1)\n", "runner/deep/a.py": "", "methods/kv/policy.py": "x = 1\n"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


@pytest.fixture
def ground(maker: Callable[..., Maker], code: Path) -> Iterator[Image]:
    """Make an image of one file; afterwards remove it and what tests put on top."""
    made = maker()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("hello"))
    name = f"longctx-ground-{uuid.uuid4().hex[:8]}"
    made.docker.api.import_image_from_data(packed.getvalue(), repository=name, tag="1")
    image = made.inspect(f"{name}:1")
    assert image is not None
    yield image
    while left := made.docker.api.images(filters={"label": f"longctx.image.code={code.name}"}):  # the classic builder leaves steps behind
        made.docker.api.remove_image(left[0]["Id"], force=True)
    made.docker.api.remove_image(f"{name}:1", force=True)


def files(made: Maker, image: str) -> dict[str, tuple[int, int, int, bytes]]:
    """Return what lies under /longctx in an image: mode, owner and content by name."""
    api = made.docker.api
    container = api.create_container_from_config({"Image": image, "Cmd": ["none"]})["Id"]
    try:
        chunks, _ = api.get_archive(container, "/longctx")
        found = {}
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
            for member in archive.getmembers():
                content = archive.extractfile(member) if member.isfile() else None
                found[member.name] = (member.mode, member.uid, member.gid, content.read() if content else b"")
        return found
    finally:
        api.remove_container(container, force=True)


def test_thin_layers_are_the_same_by_both_builders(
    maker: Callable[..., Maker], ground: Image, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = maker()
    if builder.buildx() is None:
        pytest.skip("there is no docker buildx to compare with")
    one = made.family(ground, "tiny", "kv", "cpu", code)
    monkeypatch.setattr(builder, "buildx", lambda: None)
    other = made.family(ground, "tiny", "other", "cpu", code)
    assert one.id != other.id
    held = files(made, one.id)
    assert held == files(made, other.id)
    assert held["longctx/code/runner/__main__.py"] == (0o644, 0, 0, b"print(1)\n")
    assert {"longctx/code/runner/deep/a.py", "longctx/code/methods/kv/policy.py"} <= held.keys()


def test_an_unchanged_family_is_not_built_again(
    maker: Callable[..., Maker], ground: Image, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = maker().family(ground, "tiny", "kv", "cpu", code)

    def built(*_: object) -> None:
        raise AssertionError("it is there already")

    monkeypatch.setattr(builder, "build_thin", built)
    assert maker().family(ground, "tiny", "kv", "cpu", code) == first


TWICE = """
import sys
from pathlib import Path
from longctx.orchestrator.builds import builder
from longctx.orchestrator.builds.make import Maker
from longctx.orchestrator.engines.docker.client import connect
from longctx.orchestrator.settings import Settings
build = builder.build_thin
def counted(*arguments):
    print("built", flush=True)
    build(*arguments)
builder.build_thin = counted
maker = Maker(docker=connect(), settings=Settings(cache=Path(sys.argv[1])))
ground = maker.inspect(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
print(maker.family(ground, "tiny", "kv", "cpu", Path(sys.argv[3])).id)
maker.docker.close()
"""


def test_two_processes_at_once_build_once(ground: Image, code: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", TWICE, str(tmp_path / "cache"), ground.tag, str(code)]
    start = functools.partial(subprocess.Popen[str], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with start(command) as first, start(command) as second:
        for process in (first, second):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in (first, second):
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        said = [process.communicate(timeout=120)[0].split() for process in (first, second)]
    assert sorted(len(lines) for lines in said) == [1, 2]
    assert said[0][-1] == said[1][-1] != ""
    assert said[0][-1].startswith("sha256:")


def test_an_export_can_be_loaded_again(maker: Callable[..., Maker], ground: Image, code: Path, tmp_path: Path) -> None:
    made = maker()
    names = [made.family(ground, "tiny", family, "cpu", code).tag for family in ("kv", "other")]
    before = [made.inspect(name) for name in names]
    told: list[int] = []
    size = inventory.export(made, names, tmp_path / "o.tar", told.append)
    assert told[-1] == size == (tmp_path / "o.tar").stat().st_size
    for name in names:
        made.docker.api.remove_image(name, force=True)
    assert [made.inspect(name) for name in names] == [None, None]
    with (tmp_path / "o.tar").open("rb") as file:
        list(made.docker.api.load_image(file))
    assert [made.inspect(name) for name in names] == before


def test_pruning_removes_all_but_what_a_container_uses(
    maker: Callable[..., Maker], ground: Image, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = maker()
    idle, used = (made.family(ground, "tiny", family, "cpu", code) for family in ("idle", "used"))
    inventory_of_all = inventory.inventory

    def ours(*arguments: Any) -> tuple[inventory.Entry, ...]:
        return tuple(entry for entry in inventory_of_all(*arguments) if entry.environment == "tiny")

    monkeypatch.setattr(inventory, "inventory", ours)
    assert {entry.name: (entry.kind, entry.state) for entry in ours(made, Catalog(()))} == {
        idle.tag: ("family", "stale"), used.tag: ("family", "stale"),
    }  # fmt: skip
    container = made.docker.api.create_container_from_config({"Image": used.tag, "Cmd": ["none"]})["Id"]
    try:
        done = inventory.prune(made, Catalog(()), everything=False, dry_run=False, report=print)
    finally:
        made.docker.api.remove_container(container)
    assert (done.removed, list(done.kept)) == ((idle.tag,), [used.tag])
    assert "container" in done.kept[used.tag]
    assert (made.inspect(idle.tag), made.inspect(used.tag)) == (None, used)


def test_an_image_that_is_not_there_leaves_no_archive(maker: Callable[..., Maker], tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailed, match="has not got longctx/nothing:1"):
        inventory.export(maker(), ["longctx/nothing:1"], tmp_path / "o.tar", print)
    assert not (tmp_path / "o.tar").exists()
    with pytest.raises(UsageError, match="no image 'nothing'"):
        inventory.chosen((), ["nothing"])
