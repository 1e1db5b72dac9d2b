"""Token ids: made once, checked, kept; and the tokenizer that evals are lent."""

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from unit.orchestrator.builders import KEY, Bench, ids, model, plan

from longctx.orchestrator import tokens
from longctx.orchestrator.contracts.outcome import Isolation
from longctx.orchestrator.contracts.plan import LockedFile, LockedModel, TokeniseTask
from longctx.orchestrator.contracts.request import Ids, Prompting
from longctx.orchestrator.engines.base import ContainerSpec, Ended
from longctx.orchestrator.errors import EnvironmentFailed, ModelError
from longctx.orchestrator.settings import Settings
from longctx.orchestrator.store import write_lines

NAME = f"tiny/{KEY}.ids"
TASK = TokeniseTask(task=0, job="tokenise--tiny", model="tiny", environment="tf5", items=((KEY, Prompting(), NAME),))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path)
    made.run.ids(NAME).unlink()
    return made


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache=tmp_path / "cache")


def wrote(bench: Bench, *lines: Ids | str, number: int = 1) -> Path:
    """Write what a tokenising attempt left."""
    path = bench.run.job(TASK.job) / str(number) / "out" / NAME
    write_lines(path, [line for line in lines if isinstance(line, Ids)])
    with path.open("a") as file:
        file.writelines(line for line in lines if isinstance(line, str))
    return path


def place(bench: Bench, settings: Settings, one: LockedModel | None = None) -> list[TokeniseTask]:
    return tokens.place(bench.run, plan(tokenise=(TASK,)), {"tiny": one or model()}, settings)


def test_accepted_ids_are_kept_and_serve_the_next_run(bench: Bench, settings: Settings) -> None:
    assert place(bench, settings) == [TASK]
    wrote(bench, *(ids(name) for name in bench.names))
    tokens.accept(bench.run, TASK, model(), settings)
    first = bench.run.ids(NAME).read_bytes()
    bench.run.ids(NAME).unlink()
    assert place(bench, settings) == []
    assert bench.run.ids(NAME).read_bytes() == first


@pytest.mark.parametrize("what", ["requests", "template", "tokenizer", "prompting"])
def test_whatever_decides_the_ids_makes_them_anew(bench: Bench, settings: Settings, what: str) -> None:
    wrote(bench, *(ids(name) for name in bench.names))
    tokens.accept(bench.run, TASK, model(), settings)
    one, prompting = model(), Prompting()
    if what == "requests":
        bench.build(bench.names, text="other words")
    elif what == "template":
        one = model(job=one.job.model_copy(update={"template": "other"}))
    elif what == "tokenizer":
        one = model(files=(LockedFile(path="tokenizer.json", size=1, sha256="0" * 64),))
    else:
        prompting = Prompting(bos="none")
    assert not tokens.cached(bench.run, one, KEY, prompting, settings).exists()


def test_weights_do_not_decide_the_ids(bench: Bench, settings: Settings) -> None:
    one = model(files=(LockedFile(path="model.safetensors", size=1, sha256="0" * 64),))
    assert tokens.cached(bench.run, one, KEY, Prompting(), settings) == tokens.cached(bench.run, model(), KEY, Prompting(), settings)


def test_ids_of_older_requests_do_not_stay_in_the_run(bench: Bench, settings: Settings) -> None:
    wrote(bench, *(ids(name) for name in bench.names))
    tokens.accept(bench.run, TASK, model(), settings)
    bench.build(bench.names, text="other words")
    assert place(bench, settings) == [TASK]
    assert not bench.run.ids(NAME).exists()


def changed(**more: Any) -> Ids:
    return ids("a").model_copy(update=more)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([ids("c"), ids("a")], r"3: lines and requests differ in number"),
        ([ids("c"), ids("a"), ids("b"), ids("d")], r"4: lines and requests differ in number"),
        ([ids("c"), ids("b"), ids("a")], r"2: these are not the ids of request a"),
        ([ids("c"), changed(request_sha256="0" * 64), ids("b")], r"2: these are not the ids of request a"),
        ([ids("c"), changed(ids=(1, 2)), ids("b")], r"2: the hash of request a is not that of its ids"),
        ([ids("c"), changed(given_sha256="0" * 64), ids("b")], r"2: the hash of request a is not that of its ids"),
        ([ids("c"), ids("a"), '{"id": "b"}\n'], r"3: request_sha256: Field required"),
        ([ids("c"), ids("a"), "torn"], r"3: lines and requests differ in number"),
    ],
)
def test_ids_that_are_wrong_are_refused_and_not_kept(bench: Bench, settings: Settings, lines: list[Ids | str], told: str) -> None:
    wrote(bench, *lines)
    with pytest.raises(ModelError, match=rf"\.ids:{told}\.\n.*log\.txt"):
        tokens.accept(bench.run, TASK, model(), settings)
    assert place(bench, settings) == [TASK]


def test_ids_too_large_for_their_hash_are_refused(bench: Bench, settings: Settings) -> None:
    wrote(bench, ids("c"), changed(ids=(2**40,)), ids("b"))
    with pytest.raises(ModelError, match="2: request a has ids that no vocabulary has"):
        tokens.accept(bench.run, TASK, model(), settings)


def test_a_link_in_place_of_ids_is_refused(bench: Bench, settings: Settings, tmp_path: Path) -> None:
    path = wrote(bench, *(ids(name) for name in bench.names))
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="wrote no ids"):
        tokens.accept(bench.run, TASK, model(), settings)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="wrote no ids"):
        tokens.accept(bench.run, TASK, model(), settings)


class Counter:
    """An engine whose process counts words, in a thread, through the mailbox; or answers what the test says."""

    name = "venv"
    isolation: Isolation = "partial"
    isolation_detail: Mapping[str, bool] = {}

    def __init__(self, answer: str | None = None, dies: bool = False) -> None:
        self.answer, self.dies, self.stopped, self.left = answer, dies, threading.Event(), False

    def prepare(self, *_: object) -> None: ...

    def start(self, spec: ContainerSpec) -> "Counter":
        assert spec.family is None
        targets = {mount.target: mount.source for mount in spec.mounts}
        self.mailbox, self.out = targets["requests/count"], targets["out"] / "count"
        if not self.dies:
            self.thread = threading.Thread(target=self._work, daemon=True)
            self.thread.start()
        return self

    def _work(self) -> None:
        while not (self.mailbox / "stop").exists() and not self.stopped.wait(0.002):
            for path in self.mailbox.glob("*.json"):
                answer = self.out / path.name
                if not answer.exists():
                    texts = json.loads(path.read_text())["texts"]
                    draft = self.out / f"{path.name}.tmp"
                    draft.write_text(self.answer or json.dumps({"counts": [len(text.split()) for text in texts]}))
                    draft.rename(answer)
        self.stopped.set()

    def poll(self) -> Ended | None:
        return Ended(code=3) if self.dies else Ended(code=0) if self.stopped.is_set() else None

    def __enter__(self) -> "Counter":
        return self

    def __exit__(self, *_: object) -> None:
        self.left = True
        self.stopped.set()


@pytest.fixture(autouse=True)
def _staged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "stage", lambda cache, needed: cache)


@contextlib.contextmanager
def lent(engine: Any, settings: Settings) -> Iterator[tokens.Count]:
    with tokens.lender(engine, settings, lambda line: None)(model()) as count:
        yield count


def test_a_tokenizer_is_lent_and_cleaned_up_after(settings: Settings) -> None:
    engine = Counter()
    with lent(engine, settings) as count:
        assert list(count(["one two", "three"])) == [2, 1]
        assert list(count([])) == []
    assert engine.left
    assert list((settings.cache / "counting").iterdir()) == []


@pytest.mark.parametrize(
    "answer",
    [
        "{",
        "{}",
        "[]",
        '{"counts": 5}',
        '{"counts": [1]}',
        '{"counts": [1, -1]}',
        '{"counts": [1, true]}',
        '{"counts": [1, 2.5]}',
        "x" * 9999,
    ],
)
def test_an_answer_that_is_none_is_told_with_the_log(settings: Settings, answer: str) -> None:
    engine = Counter(answer)
    told = r"Counting tokens for tiny gave no answer that can be used: .*\n.*log\.txt"
    with pytest.raises(EnvironmentFailed, match=told), lent(engine, settings) as count:
        count(["a", "b"])
    assert engine.left


def test_a_process_that_dies_is_told(settings: Settings) -> None:
    with pytest.raises(EnvironmentFailed, match="Counting tokens for tiny ended with 3"), lent(Counter(dies=True), settings) as count:
        count(["a"])


def test_a_process_that_does_not_answer_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "COUNT_TIMEOUT_SECONDS", 0.02)
    engine = Counter()
    monkeypatch.setattr(engine, "_work", lambda: None)
    with pytest.raises(EnvironmentFailed, match="did not answer in time"), lent(engine, settings) as count:
        count(["a"])
