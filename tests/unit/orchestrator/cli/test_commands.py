"""The command line as a person meets it: help, exit codes, what is written where."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from unit.orchestrator.builders import Bench, answering, cell, lock, plan, response, verdict

from longctx import __version__
from longctx.orchestrator import cells, schema, system
from longctx.orchestrator.cli import app, main
from longctx.orchestrator.engines.host import Run
from longctx.orchestrator.settings import Settings
from longctx.orchestrator.store import write_document


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


class Command:
    """Runs ``longctx`` in this process, in an empty folder."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capture = capfd

    def __call__(self, *arguments: str | Path) -> Ran:
        self._capture.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = self._capture.readouterr()
        return Ran(int(ended.value.code or 0), out, err)


@pytest.fixture
def longctx(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    return Command(capfd)


def commands() -> Iterator[tuple[str, ...]]:
    """Yield every command that help lists."""
    from longctx.orchestrator.cli import commands as _registered  # noqa: F401

    def walk(group: object, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for name, command in sorted(getattr(group, "commands", {}).items()):
            if not command.hidden:
                if getattr(command, "commands", None):
                    yield from walk(command, (*path, name))
                else:
                    yield (*path, name)

    yield from walk(typer.main.get_command(app), ())


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_every_command_has_help_with_an_example(longctx: Command, command: tuple[str, ...]) -> None:
    ran = longctx(*command, "--help")
    assert ran.code == 0
    assert re.search(r"Examples?:", ran.out)
    assert f"longctx {' '.join(command)}" in ran.out
    assert ran.out == longctx(*command, "-h").out


def test_the_help_lists_commands_and_exit_codes(longctx: Command) -> None:
    ran = longctx("--help")
    assert ran.code == 0
    assert "worker" not in ran.out, "backends start it, not people"
    for word in ("run", "plan", "try", "status", "logs", "score", "Exit codes:", "130 stopped"):
        assert word in " ".join(ran.out.split())


def test_the_version(longctx: Command) -> None:
    assert longctx("--version") == Ran(0, f"{__version__}\n", "")


@pytest.mark.parametrize("arguments", [("run",), ("rnu",), ("plan", "--nope", "x"), ("logs", "x", "--lines", "0"), ("run", "x", "-j", "0")])
def test_wrong_arguments_exit_2(longctx: Command, arguments: tuple[str, ...]) -> None:
    ran = longctx(*arguments)
    assert ran.code == 2
    assert "Usage: " in ran.err


BAD = {
    "no such file": None,
    "not yaml": "a: [1",
    "an unknown method": "name: x\nmodels: [smollm2-135m-instruct]\nmethods: [{method: full-vk}]\nevals: [{task: passkey/default}]\n",
    "an unknown key": "nme: x\n",
}


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_a_wrong_manifest_exits_3_and_writes_nothing(longctx: Command, tmp_path: Path, command: str, text: str | None) -> None:
    if text is not None:
        (tmp_path / "m.yaml").write_text(text)
    ran = longctx(command, "m.yaml")
    assert ran.code == 3
    assert ran.err.startswith("longctx: ")
    assert "m.yaml" in ran.err
    assert "Traceback" not in ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == (["m.yaml"] if text is not None else [])
    assert not Path(os.environ["LONGCTX_CACHE"]).exists()


@pytest.mark.parametrize("arguments", [("status", "nope"), ("logs", "nope"), ("score", "nope")])
def test_an_unknown_run_exits_11_and_lists_those_there_are(longctx: Command, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    ran = longctx(*arguments)
    assert ran.code == 11
    assert "There is no run 'nope'" in ran.err
    assert "Runs there: none." in ran.err
    run(tmp_path)
    assert "Runs there: probe." in longctx(*arguments).err


def run(folder: Path) -> Bench:
    """Write a run with answers."""
    bench = Bench(folder)
    write_document(bench.run.plan, plan())
    write_document(bench.run.lock, lock())
    attempt = bench.attempt([response(name) for name in "abc"])
    (attempt / "log.txt").write_text("first\nlast\n")
    write_document(attempt / "verdict.json", verdict("killed", detail="by signal 9", next_step="Do this."))
    cells.collect(bench.run, {cell().cell: cell()}, dead=True)
    return bench


def test_status_of_all_runs_and_of_one(longctx: Command, tmp_path: Path) -> None:
    assert "No runs in runs. Start one: longctx run MANIFEST" in longctx("status").out
    run(tmp_path)
    assert "3 of 3" in longctx("status").out
    (row,) = json.loads(longctx("status", "--json").out)
    assert (row["run"], row["answered"], row["complete"]) == ("probe", 3, None)
    ran = longctx("status", "probe")
    assert (ran.code, "3 of 3" in ran.out, "by signal 9" in ran.out) == (0, True, True)
    assert longctx("status", tmp_path / "runs" / "probe").out == ran.out
    assert json.loads(longctx("status", "probe", "--json").out)["cells"][0]["answered"] == 3


def test_logs(longctx: Command, tmp_path: Path) -> None:
    run(tmp_path)
    assert longctx("logs", "probe", "-n", "1").out.splitlines() == [
        "== kv.tf5--tiny, attempt 1: killed",
        "by signal 9",
        "last",
        "-> Do this.",
    ]
    assert longctx("logs", "probe", "--job", "nothing").code == 11


def test_score_shows_the_table_and_writes_the_summary(longctx: Command, tmp_path: Path) -> None:
    run(tmp_path)
    ran = longctx("score", "probe")
    assert ran.code == 0
    assert "100.0" in ran.out
    assert "score: exact, in percent" in ran.out
    assert (tmp_path / "runs/probe/summary.csv").exists()
    assert json.loads(longctx("score", "probe", "--json").out)["complete"] is True


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1", "FORCE_COLOR": ""}, {}])
def test_no_colours_in_a_pipe(tmp_path: Path, variables: dict[str, str]) -> None:
    run(tmp_path)
    environment = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "NO_COLOR", "COLUMNS")} | variables
    done = subprocess.run(
        [sys.executable, "-m", "longctx.orchestrator.cli", "status", "probe"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        check=True,
    )
    assert b"\x1b" not in done.stdout
    assert max(map(len, done.stdout.decode().splitlines())) <= 200


def test_no_color_holds_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from longctx.orchestrator.cli.shared import console

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert console().color_system is not None
    monkeypatch.setenv("NO_COLOR", "1")
    assert console().no_color


def test_schemas(longctx: Command) -> None:
    assert longctx("schema").out.split() == sorted(schema.DOCUMENTS)
    assert json.loads(longctx("schema", "manifest").out) == schema.generate("manifest")
    ran = longctx("schema", "manifst")
    assert ran.code == 2
    assert "did you mean 'manifest'" in ran.err


def test_config_shows_every_setting_and_where_it_comes_from(longctx: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = longctx("config")
    assert ran.code == 0
    assert "not there: these are the defaults" in ran.out
    assert [line.partition(":")[0] for line in ran.out.splitlines()[1:]] == list(Settings.model_fields)
    (tmp_path / "mine.yaml").write_text("offline: true\n")
    monkeypatch.setenv("LONGCTX_CONFIG", str(tmp_path / "mine.yaml"))
    assert "offline: true  # never fetch" in longctx("config").out
    (tmp_path / "mine.yaml").write_text("offlin: true\n")
    ran = longctx("config")
    assert (ran.code, "mine.yaml: offlin: " in ran.err) == (2, True)


def test_requests(longctx: Command, tmp_path: Path) -> None:
    ran = longctx("requests", "passkey/default", "--out", "r.jsonl", "--set", "lengths={words: [30]}", "--set", "depths=[0.5]")
    assert (ran.code, ran.out) == (0, "1 requests written to r.jsonl.\n")
    assert json.loads((tmp_path / "r.jsonl").read_text())["id"] == "w30-d0.5-r0"
    assert longctx("requests", "nope/x", "--out", "y.jsonl").code == 2
    assert not (tmp_path / "y.jsonl").exists()


def test_methods(longctx: Command) -> None:
    out = longctx("methods").out
    assert "full-kv" in out
    assert "streaming-llm" in out
    assert "keep (float" in longctx("methods", "streaming-llm").out
    names = [one["name"] for one in json.loads(longctx("methods", "--json").out)]
    assert names == sorted(names)
    ran = longctx("methods", "streaming-lm")
    assert (ran.code, "did you mean 'streaming-llm'?" in ran.err) == (3, True)


def test_models(longctx: Command) -> None:
    assert "smollm2-135m-instruct" in longctx("models", "list").out
    ran = longctx("models", "fetch", "smollm")
    assert (ran.code, "No model is called 'smollm'" in ran.err) == (2, True)


def test_a_method_that_is_broken_is_told_beside_the_others(longctx: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "more" / "methods" / "broken"
    folder.mkdir(parents=True)
    (folder / "method.yaml").write_text("name: broken\n")
    monkeypatch.setenv("LONGCTX_PATH", str(tmp_path / "more"))
    ran = longctx("methods")
    assert (ran.code, "full-kv" in ran.out, "broken" in ran.err) == (0, True, True)


INTERRUPTED = """
import sys
from longctx.orchestrator import cli
@cli.app.command()
def wait() -> None:
    raise KeyboardInterrupt
@cli.app.command()
def flood() -> None:
    for _ in range(100_000):
        print("x" * 100)
@cli.app.command()
def fault() -> None:
    raise ZeroDivisionError("a fault")
cli.main(sys.argv[1:])
"""


def started(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", INTERRUPTED, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_ctrl_c_exits_130_with_a_word() -> None:
    with started("wait") as process:
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "Stopped. What was answered is kept; run the same command to resume.\n")


def test_a_pipe_that_closes_exits_141_in_silence() -> None:
    with started("flood") as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
        process.wait(timeout=60)
    assert (process.returncode, err) == (141, "")


def test_a_fault_of_our_own_shows_its_traceback() -> None:
    with started("fault") as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ZeroDivisionError: a fault" in err


HEAVY = ("pydantic", "rich", "numpy", "yaml", "docker", "huggingface_hub", "torch", "gguf")


@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_a_quick_start_imports_nothing_heavy(argument: str) -> None:
    source = (
        "import sys\nfrom longctx.orchestrator.cli import main\n"
        f"try:\n    main([{argument!r}])\nexcept SystemExit:\n    pass\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_config_system_records_shows_and_forgets(longctx: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    def direct(variables: object) -> Run:
        asked.append(str(variables))
        return answering()

    monkeypatch.setattr(system, "direct", direct)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/apps/lib")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    ran = longctx("config", "system", "--python", sys.executable)
    assert ran.code == 0, ran.err
    assert "torch 2.12.0+cu128 for cpu and cuda, transformers 5.23.1, 3 packages." in ran.out
    assert "system*" in ran.out and "Note: recorded from this shell, too: $LD_LIBRARY_PATH." in ran.out
    assert asked == ["{'LD_LIBRARY_PATH': '/apps/lib'}"]
    assert f"# environment system, in place of tf5: {sys.executable}" in longctx("config").out
    assert "recorded from this shell" not in longctx("config", "system", "--python", sys.executable, "--clean").out
    assert longctx("config", "system", "--remove").out.startswith("Removed ")
    assert longctx("config", "system", "--remove").out == "No Python of this host is recorded.\n"


def test_config_system_says_what_is_wrong(longctx: Command) -> None:
    ran = longctx("config", "system", "--python", "/nowhere/python")
    assert (ran.code, "there is no such program" in ran.err) == (2, True)
    ran = longctx("config", "system", "--like", "tf6", "--python", sys.executable)
    assert (ran.code, "It may be: tf4.40, tf5." in ran.err) == (2, True)
    ran = longctx("config", "system", "--python", sys.executable)
    assert (ran.code, "importing torch fails" in ran.err) == (6, True)
