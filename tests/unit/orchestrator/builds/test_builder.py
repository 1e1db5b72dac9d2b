"""What builders are told, and what is told of a build that failed. Lines of uv and BuildKit are as they were printed."""

import json
import os
import stat
import tarfile
from itertools import pairwise
from pathlib import Path

import pytest

from longctx.orchestrator.builds import builder
from longctx.orchestrator.builds.recipe import DOCKERFILE, Recipe
from longctx.orchestrator.errors import EnvironmentFailed, StorageError
from longctx.orchestrator.settings import Settings

RECIPE = Recipe(
    tag="longctx/tf5:cpu-0123", stage="environment", labels={"longctx.image": "environment"}, arguments={"BASE": "b", "TORCH": "a b"},
    contexts={"tools": "/t", "wheels": "/w"}, network=True,
)  # fmt: skip
SECRETS = {"index": Path("/s/index"), "ca": Path("/s/ca.pem")}
STEP = """\
#12 [torch 1/1] RUN --mount=type=bind,from=tools,target=/tools     /tools/install.sh torch --no-deps --torch-backend cpu torch==2.12.0
#12 0.165 Using CPython 3.11.2 interpreter at: /usr/bin/python3
{lines}
#12 ERROR: process "/bin/sh -c /tools/install.sh torch ${{TORCH}}" did not complete successfully: exit code: 2
------
 > [torch 1/1] RUN --mount=type=bind,from=tools,target=/tools     /tools/install.sh torch --no-deps --torch-backend cpu torch==2.12.0:
0.483   cause: client error (Connect)
------
Dockerfile:28
  30 | >>>     /tools/install.sh torch ${{TORCH}}
ERROR: failed to solve: process "/bin/sh -c /tools/install.sh torch ${{TORCH}}" did not complete successfully: exit code: 2"""
GARBAGE = """\
#12 0.209 warning: No valid certificates found in `SSL_CERT_FILE`: /run/secrets/ca. No default certificates will be trusted.
#12 0.376   cause: invalid peer certificate: UnknownIssuer"""
UNTRUSTED = """\
#12 0.380 error: Failed to fetch: https://127.0.0.1:8443/simple/torch/
#12 0.380   cause: invalid peer certificate: UnknownIssuer"""
REFUSED = """\
#12 12.46 error: Request failed after 3 retries in 12.0s
#12 12.46   cause: Failed to fetch: http://127.0.0.1:9/simple/torch/
#12 12.46   cause: tcp connect error
#12 12.46   cause: Connection refused (os error 111)"""
NAMELESS = """\
#12 8.746   cause: Failed to fetch: https://index.example/whl/cpu/torch/
#12 8.746   cause: dns error
#12 8.746   cause: failed to lookup address information: Name or service not known"""
OFFLINE = """\
#12 0.287 error: No solution found when resolving dependencies
#12 0.289   cause: Because torch was not found in the cache and you require torch==2.12.0, your requirements are unsatisfiable.
#12 0.289 hint: Packages were unavailable because the network was disabled."""
NO_WHEEL = """\
#12 0.287 error: No solution found when resolving dependencies
#12 0.289   cause: Because there is no version of torch==2.12.0 and you require torch==2.12.0, your requirements are unsatisfiable."""


@pytest.mark.parametrize(
    ("lines", "told", "step"),
    [
        (GARBAGE, "the CA bundle cannot be used", "PEM"),
        (UNTRUSTED, "certificate is not trusted inside the build", "`certificates`"),
        (REFUSED, "the package index cannot be reached", "wheelhouse"),
        (NAMELESS, "the package index cannot be reached", "`proxy`"),
        (OFFLINE, "`offline` is set", "unset `offline`"),
        (NO_WHEEL, "a package cannot be had for this Python", "another base"),
    ],
)
def test_causes_are_recognised(lines: str, told: str, step: str) -> None:
    error = builder._failure("longctx/tf5:cpu-0123", STEP.format(lines=lines).splitlines())
    assert isinstance(error, EnvironmentFailed)
    assert told in error.args[0]
    assert step in error.next_step
    shown = error.args[0].splitlines()[1:]
    assert [line.split(maxsplit=2)[-1] for line in lines.splitlines()][-1] in shown[-1], "what uv said last"
    assert not [line for line in shown if "#12" in line or "did not complete" in line]
    assert len(shown) == len(set(shown))


def test_a_full_disk_of_the_engine() -> None:
    error = builder._failure("i", ["#9 ERROR: failed to copy: write /var/lib/docker/overlay2/x/a.so: no space left on device"])
    assert isinstance(error, StorageError)
    assert "longctx images prune" in error.next_step


def test_what_no_cause_is_known_for_is_shown() -> None:
    assert "  nvcc fatal: unsupported" in str(builder._failure("i", ["#4 1.2 nvcc fatal: unsupported", "", "------", "once more"]))


def test_arguments_and_bake_file_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://name:secret@proxy:1")
    arguments = builder.build_arguments(RECIPE, SECRETS)
    target = builder.bake_file([RECIPE], SECRETS, os.environ)["target"]["longctx-tf5-cpu-0123"]

    def given(option: str) -> list[str]:
        return [value for name, value in pairwise(arguments) if name == option]

    assert given("--tag") == target["tags"] == [RECIPE.tag]
    assert given("--target") == [target["target"]]
    assert given("--file") == [target["dockerfile"]] == [str(DOCKERFILE)]
    assert arguments[-1] == target["context"]
    assert given("--network") == [target["network"]] == ["host"]
    assert given("--secret") == target["secret"]
    assert given("--label") == [f"{key}={value}" for key, value in target["labels"].items()]
    assert given("--build-context") == [f"{key}={value}" for key, value in target["contexts"].items()]
    assert {one.partition("=")[0] for one in given("--build-arg")} == {*RECIPE.arguments, *builder.PROXIES}
    assert set(target["args"]) == {*RECIPE.arguments, *(name for name in builder.PROXIES if os.environ.get(name))}


def test_what_fetches_nothing_gets_neither_network_nor_secrets() -> None:
    quiet = Recipe(tag="t:1", stage="python", labels={})
    assert not {"--network", "--secret"} & set(builder.build_arguments(quiet, SECRETS))
    assert not {"network", "secret"} & builder.bake_file([quiet], SECRETS, {})["target"]["t-1"].keys()


def test_several_recipes_are_one_group() -> None:
    made = builder.bake_file([RECIPE, Recipe(tag="t:1", stage="python", labels={})], {}, {})
    assert made["group"]["default"]["targets"] == list(made["target"]) == ["longctx-tf5-cpu-0123", "t-1"]


def test_the_settings_proxy_reaches_bake_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    variables = builder.variables(Settings(proxy="http://proxy:1"))
    assert builder.bake_file([RECIPE], {}, variables)["target"]["longctx-tf5-cpu-0123"]["args"]["HTTPS_PROXY"] == "http://proxy:1"


@pytest.fixture
def passwords(monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in ("SSL_CERT_FILE", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://me:pass'word@index/simple")
    monkeypatch.setenv("UV_INDEX_MINE_PASSWORD", "pass'word2")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:pass'word3@proxy:1")
    monkeypatch.setenv("AWS_SECRET", "pass'word4")
    return Settings(torch_index="https://me:pass'word5@torch/simple")


def test_secrets_are_files_that_only_the_caller_may_read(passwords: Settings) -> None:
    with builder._secrets(passwords) as files:
        assert list(files) == ["index"]
        assert stat.S_IMODE(files["index"].stat().st_mode) == 0o600
        lines = dict(line.removeprefix("export ").split("=", 1) for line in files["index"].read_text().splitlines())
    assert not files["index"].exists()
    assert lines["UV_DEFAULT_INDEX"] == "'https://me:pass'\\''word@index/simple'", "quoted for the shell that reads it"
    assert lines[builder.TORCH_INDEX] == "'https://me:pass'\\''word5@torch/simple'"
    assert {"UV_INDEX_MINE_PASSWORD", "HTTPS_PROXY"} <= lines.keys()
    assert "AWS_SECRET" not in lines


def test_no_secret_stands_in_arguments(passwords: Settings) -> None:
    with builder._secrets(passwords) as files:
        assert "word" not in " ".join(builder.build_arguments(RECIPE, files))


def test_a_ca_bundle_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailed, match="does not exist"), builder._secrets(Settings(certificates=tmp_path / "ca.pem")):
        pass
    (tmp_path / "ca.pem").touch()
    with builder._secrets(Settings(certificates=tmp_path / "ca.pem")) as files:
        assert files["ca"] == tmp_path / "ca.pem"


def program(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    return folder / name


def test_the_first_docker_that_has_buildx_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "old", "docker", "exit 1")
    good = program(tmp_path / "new", "docker", "exit 0")
    builder.buildx.cache_clear()
    monkeypatch.setenv("PATH", f"{tmp_path / 'none'}:{tmp_path / 'old'}:{tmp_path / 'new'}")
    try:
        assert builder.buildx() == (str(good), "buildx")
        builder.buildx.cache_clear()
        monkeypatch.setenv("PATH", str(tmp_path / "old"))
        assert builder.buildx() is None
        with pytest.raises(EnvironmentFailed, match="docker buildx"):
            builder.build([RECIPE], Settings(), print)
    finally:
        builder.buildx.cache_clear()


def test_steps_are_passed_on_and_passwords_are_not(tmp_path: Path) -> None:
    call = program(
        tmp_path / "bin",
        "docker",
        "echo '#7 [torch 1/1] RUN x'; echo '#7 DONE 12.3s'; echo '#8 [python 1/1] RUN y'; echo '#8 DONE 0.0s'; echo '#9 exporting layers';"
        "echo '#9 DONE 2.5s'; echo 'error: https://me:word@index/simple failed' >&2; exit 1",
    )
    said: list[str] = []
    with pytest.raises(EnvironmentFailed) as raised:
        builder._run([str(call)], Settings(), said.append, "i")
    assert said == ["  torch: 12.3 s", "  exporting layers: 2.5 s"]
    assert "https://***@index/simple" in str(raised.value)


@pytest.mark.parametrize(("printed", "ways"), [('{"network": "host"}', ["build", "bake"]), ("{}", ["build", "build", "build"])])
def test_one_is_built_and_several_are_baked_where_bake_knows_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str, ways: list[str]
) -> None:
    log = tmp_path / "log"
    call = program(
        tmp_path / "bin",
        "docker",
        f"""case $2-$3 in
        bake---print) echo '{printed}';;
        bake---help) ;;
        bake-*) echo "$@" >> {log}; for a; do f=$a; done; cat "$f" > {log}.bake;;
        *) echo "$@" >> {log};;
        esac""",
    )
    monkeypatch.setattr(builder, "buildx", lambda: (str(call), "buildx"))
    builder._knows_allow.cache_clear()
    builder.build([RECIPE], Settings(), print)
    builder.build([RECIPE, Recipe(tag="t:1", stage="python", labels={})], Settings(), print)
    lines = log.read_text().splitlines()
    assert [line.split()[1] for line in lines] == ways
    assert all(line.split()[2:5] == ["--builder", "default", "--progress"] for line in lines)
    if "bake" in ways:
        assert list(json.loads((tmp_path / "log.bake").read_text())["target"]) == ["longctx-tf5-cpu-0123", "t-1"]


def test_the_classic_builders_context_holds_the_code(tmp_path: Path) -> None:
    (tmp_path / "runner").mkdir()
    (tmp_path / "runner" / "a.py").write_text("a = 1")
    with tarfile.open(fileobj=builder._context("FROM x\n", tmp_path)) as archive:
        assert archive.getnames() == ["Dockerfile", "runner", "runner/a.py"]
        member = archive.extractfile("Dockerfile")
        assert member is not None
        assert member.read() == b"FROM x\n"
