"""``longctx try``: one prompt as a manifest, and what is told of its answer."""

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from unit.orchestrator.builders import kv, response, result, row, summary
from unit.orchestrator.manifest.samples import write_samples

from longctx.orchestrator import trial
from longctx.orchestrator.contracts.outcome import Loading, Piece
from longctx.orchestrator.contracts.response import Response
from longctx.orchestrator.errors import ManifestError, RunIncomplete, UsageError
from longctx.orchestrator.manifest.load import load_manifest
from longctx.orchestrator.manifest.selected import LoadedManifest
from longctx.orchestrator.run import Incomplete, Ran, RunOptions
from longctx.orchestrator.settings import Settings
from longctx.orchestrator.store import RunFolder, write_lines
from longctx.orchestrator.trial import Trial


def wanted(prompt: Path, **more: Any) -> Trial:
    fields: dict[str, Any] = {
        "method": "sinks", "model": "random:tiny-llama", "prompt": prompt, "params": ("keep=0.5",), "environment": None, "template": "none",
        "max_new_tokens": 8, "engine": "venv", **more,
    }  # fmt: skip
    return Trial(**fields)


class Tried:
    """Runs ``attempt`` with a stand-in for the run, and keeps the manifest that it was given."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.catalog, _ = write_samples(tmp_path / "samples")
        self.settings = Settings(cache=tmp_path / "cache")
        self.answer: Response = response("prompt", kv=kv(100, 400))
        self.incomplete = False
        self.loaded: LoadedManifest
        self.options: RunOptions
        self.out, self.err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(trial, "execute", self._execute)

    def _execute(self, options: RunOptions, settings: Settings, console: Console) -> Any:
        self.options, self.loaded = options, load_manifest(options.manifest, self.catalog)
        run = RunFolder(settings.runs / self.loaded.manifest.name)
        one = result(cell="c")
        write_lines(run.cell("c") / "responses.jsonl", [self.answer])
        assert options.on_event is not None
        options.on_event(Loading(at=0, event="loading"))
        for text in ("Hello ", "\x1b[2Jwor", "ld"):
            options.on_event(Piece(at=0, event="piece", id="prompt", text=text))
        done = summary([row("sinks{keep: 0.5}", result=one)])
        if self.incomplete:
            raise Incomplete(done, run, Ran())
        return done

    def __call__(self, one: Trial) -> None:
        trial.attempt(one, self.settings, Console(file=self.err, width=200), self.out)


@pytest.fixture
def tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tried:
    return Tried(tmp_path, monkeypatch)


@pytest.fixture
def prompt(tmp_path: Path) -> Path:
    (tmp_path / "p.txt").write_text("What is this?")
    return tmp_path / "p.txt"


def test_the_text_goes_to_the_output_and_the_rest_elsewhere(tried: Tried, prompt: Path) -> None:
    tried(wanted(prompt))
    assert tried.out.getvalue() == "Hello world\n"
    assert (
        "sinks{keep: 0.5} in tf5: 10 tokens given, 3 generated (stop); prefill 0.10 s; decode 10.0 tok/s; KV held 100 B, 4.00x"
        in tried.err.getvalue()
    )


def test_the_manifest_says_what_the_command_line_said(tried: Tried, prompt: Path) -> None:
    tried(wanted(prompt, template="chat", params=("keep=0.5", "first=8")))
    manifest = tried.loaded.manifest
    (variant,), (one,) = tried.loaded.variants, tried.loaded.evals
    assert (variant.params["keep"], variant.params["first"]) == (0.5, 8)
    assert (one.task, one.params, one.prompting.template) == ("prompt/text", {"text": "What is this?", "max_new_tokens": 8}, "chat")
    assert (manifest.engine, manifest.timing.per_bucket) == ("venv", 0)
    assert tried.options.fresh and tried.options.stream
    assert tried.options.manifest.is_relative_to(tried.settings.cache)


def test_each_prompt_has_a_run_of_its_own(tried: Tried, prompt: Path) -> None:
    names = []
    for more in ({}, {}, {"max_new_tokens": 9}, {"params": ()}):
        tried(wanted(prompt, **more))
        names.append(tried.loaded.manifest.name)
    assert names[0] == names[1]
    assert len(set(names)) == 3


@pytest.mark.parametrize(
    "text",
    [
        "emoji 😀 漢字", "quotes \" ' \\ and: {yaml: [1]}", "tabs\tand\r\nlines\n\n",
        "\x7f\x85\xa0\u2028\ufeff", "\x00\x01\x1b[31m", "---\n- &a *a",
    ],
)  # fmt: skip
def test_any_text_arrives_as_it_is(tried: Tried, tmp_path: Path, text: str) -> None:
    (tmp_path / "p.txt").write_bytes(text.encode())
    tried(wanted(tmp_path / "p.txt"))
    assert tried.loaded.evals[0].params["text"] == text


def test_folders_are_made_absolute(tried: Tried, prompt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path / "samples" / "methods")
    tried(wanted(prompt, method="./sinks"))
    assert tried.loaded.variants[0].method.name == "sinks"
    with pytest.raises(ManifestError, match=str(tmp_path)):
        tried(wanted(prompt, model="path:nowhere"))


def test_standard_input(tried: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("from a pipe ü".encode())))
    tried(wanted(Path("-")))
    assert tried.loaded.evals[0].params["text"] == "from a pipe ü"


@pytest.mark.parametrize(("content", "told"), [(None, "No such file"), (b"", "is empty"), (b"ab\xff", r"not UTF-8 text \(byte 2\)")])
def test_a_prompt_that_cannot_be_had(tried: Tried, tmp_path: Path, content: bytes | None, told: str) -> None:
    path = tmp_path / "x.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=told):
        tried(wanted(path))
    assert not tried.settings.cache.exists()


def test_an_error_of_the_method_is_told_with_its_words(tried: Tried, prompt: Path) -> None:
    tried.answer, tried.incomplete = response("prompt", finish="error"), True
    with pytest.raises(RunIncomplete, match="ValueError: no\nRead `longctx logs") as caught:
        tried(wanted(prompt))
    assert caught.value.exit_code == 8
