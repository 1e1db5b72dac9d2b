"""``longctx try``: one prompt through the very path of a run, its text shown as it comes."""

import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .contracts.outcome import Event
from .contracts.response import Response
from .contracts.result import Summary
from .errors import RunIncomplete, UsageError
from .events import clean
from .listing import settings_of
from .report import size
from .run import Incomplete, RunOptions, execute
from .settings import Settings
from .store import RunFolder, digest, read_lines, write

if TYPE_CHECKING:
    from rich.console import Console

PROMPT_LIMIT = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What the command line says."""

    method: str
    model: str
    prompt: Path
    params: tuple[str, ...]
    environment: str | None
    template: str
    max_new_tokens: int
    engine: str


def attempt(trial: Trial, settings: Settings, console: "Console", out: IO[str]) -> None:
    """Answer the prompt: the text goes to ``out`` as it comes, everything else to the console."""
    text = _read(trial.prompt)
    manifest = _manifest(trial, text)
    folder = settings.cache / "tries"
    path = folder / "manifests" / f"{manifest['name']}.yaml"
    write(path, _yaml(manifest))
    options = RunOptions(manifest=path, fresh=True, stream=True, on_event=_printer(out), command="longctx try …")
    try:
        summary = execute(options, settings.model_copy(update={"runs": folder}), console)
    except Incomplete as error:
        _tell(error.summary, RunFolder(folder / manifest["name"]), console)
        raise
    out.write("\n")
    _tell(summary, RunFolder(folder / manifest["name"]), console)


def _read(path: Path) -> str:
    try:
        raw = sys.stdin.buffer.read(PROMPT_LIMIT) if str(path) == "-" else path.read_bytes()[:PROMPT_LIMIT]
        text = raw.decode("utf-8")
    except OSError as error:
        raise UsageError(f"--prompt {path}: {error.strerror}.", "Name a text file, or - for standard input.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--prompt {path}: not UTF-8 text (byte {error.start}).", "Convert it to UTF-8.") from error
    if not text:
        raise UsageError(f"--prompt {path} is empty.", "Write a prompt into it.")
    return text


def _manifest(trial: Trial, text: str) -> dict[str, Any]:
    selection: dict[str, Any] = {"method": trial.method, "params": dict(settings_of(trial.params))}
    if trial.method.startswith((".", "/", "~")):
        selection["method"] = str(Path(trial.method).expanduser().absolute())
    if trial.environment:
        selection["environment"] = trial.environment
    scheme, colon, rest = trial.model.partition(":")
    model: Any = trial.model
    if colon:
        source = f"path:{Path(rest).expanduser().absolute()}" if scheme == "path" else trial.model
        model = {"name": "model", "source": source}
    evaluation = {
        "task": "prompt/text", "params": {"text": text, "max_new_tokens": trial.max_new_tokens}, "prompting": {"template": trial.template},
    }  # fmt: skip
    body = {"models": [model], "methods": [selection], "evals": [evaluation], "timing": {"per_bucket": 0}, "engine": trial.engine}
    return {"name": f"try-{digest(body)[:12]}", **body}


def _yaml(manifest: Mapping[str, Any]) -> str:
    """Write plain data as JSON, which is YAML once those characters are escaped that YAML refuses raw, or takes for line breaks."""
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    return re.sub("[\x7f-\xa0\u2028\u2029\ufeff\ufffe\uffff]", lambda match: f"\\u{ord(match[0]):04x}", text)


def _printer(out: IO[str]) -> Callable[[Event], None]:
    def show(event: Event) -> None:
        if event.event == "piece":
            out.write(clean(event.text))
            out.flush()

    return show


def _tell(summary: Summary, run: RunFolder, console: "Console") -> None:
    """Say what the answer took, or why there is none."""
    for row in summary.rows:
        if row.result is None:
            continue
        for response in read_lines(run.cell(row.result.cell) / "responses.jsonl", Response):
            console.print(_words(response, row.label, row.environment), markup=False)
            if response.error:
                raise RunIncomplete(f"{response.error.type}: {response.error.message}", f"Read `longctx logs {run.path}`.")


def _words(response: Response, label: str, environment: str) -> str:
    parts = [f"{label} in {environment}: {response.tokens.given} tokens given, {response.tokens.generated} generated ({response.finish})"]
    if response.time.prefill_s is not None:
        parts.append(f"prefill {response.time.prefill_s:.2f} s")
    if response.time.decode_s and response.tokens.generated > 1:
        parts.append(f"decode {(response.tokens.generated - 1) / response.time.decode_s:.1f} tok/s")
    if response.kv and response.kv.device:
        ratio = f", {response.kv.full / response.kv.device.total:.2f}x" if response.kv.full and response.kv.device.total else ""
        parts.append(f"KV held {size(response.kv.device.total)}{ratio}")
    return "; ".join(parts)
