"""The plan: pure, from hashes and what the disk is said to hold."""

import dataclasses
import textwrap
import time
from typing import Any

import pytest
from unit.orchestrator import builders
from unit.orchestrator.manifest.samples import Loader

from longctx.orchestrator import jobs
from longctx.orchestrator.contracts.plan import Absent, Plan, PlannedCell
from longctx.orchestrator.manifest.expand import expand
from longctx.orchestrator.plan import (
    Facts,
    Identity,
    Inspection,
    Lengths,
    OnDisk,
    Options,
    TaskFacts,
    bytes_of,
    full_kv_bytes,
    identify,
    plan,
    slug,
    unique_slug,
)

CODE, OLD = "1" * 64, "2" * 64
BASE = """
name: probe
models: [tiny]
methods:
  - method: sinks
    params: {keep: 0.5}
evals:
  - {task: needle/default}
resources: {device: cpu}
"""


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    folder = tmp_path_factory.mktemp("plan")
    return Loader(folder / "samples", folder)


def facts(loaded: Any, **more: Any) -> Facts:
    names = [model.spec.name for model in loaded.models]
    tasks = {
        (one.key, name): TaskFacts(planned=builders.task(key=one.key, task=one.task), covers="9" * 64, references_sha256="8" * 64)
        for one in loaded.evals
        for name in names
    }
    fields: dict[str, Any] = {
        "models": {name: builders.model(name) for name in names}, "environments": {"tf5": "5" * 64, "tf4.40": "4" * 64},
        "code": {(variant.method.name, variant.environment.name): CODE for variant in loaded.variants}, "tasks": tasks, "device": "cpu",
        "engine": "venv", "backend": "local", **more,
    }  # fmt: skip
    return Facts(**fields)


class Made:
    """A manifest taken to identities, and to a plan for whatever the disk is said to hold."""

    def __init__(self, loader: Loader, text: str = BASE, **known: Any) -> None:
        self.loaded = loader(textwrap.dedent(text))
        self.facts = facts(self.loaded, **known)
        self.identities, self.absent = identify(
            expand(self.loaded, lambda spec: "LlamaForCausalLM", "cpu"), self.loaded.manifest, self.facts
        )

    @property
    def one(self) -> Identity:
        (found,) = self.identities
        return found

    def plan(self, *places: OnDisk, lengths: Any = None, **options: Any) -> Plan:
        seen = Inspection(cells={one.config_sha256: places for one in self.identities} if places else {}, lengths=lengths or {})
        return plan(self.identities, self.absent, self.loaded.manifest, self.facts, seen, Options(run="probe", **options), jobs.ids_name)

    def cell(self, *places: OnDisk, **options: Any) -> PlannedCell:
        return self.plan(*places, **options).cells[0]


def disk(**more: Any) -> OnDisk:
    fields: dict[str, Any] = {
        "run": "probe", "own": True, "codes": (CODE,), "answered": 3, "timed": True, "errors": 0, "scored": True, **more,
    }  # fmt: skip
    return OnDisk(**fields)


SIBLING = {"run": "other", "own": False}
STATUSES = [
    # what the disk holds, options -> status, missing, source, accepted, words of the reason
    ([], {}, "NEW", 3, None, None, "not run yet"),
    ([], {"fresh": True}, "NEW", 3, None, None, "not run yet"),
    ([disk()], {}, "REUSE", 0, None, None, "complete"),
    ([disk()], {"fresh": True}, "RERUN", 3, None, None, "--fresh"),
    ([disk(answered=1)], {}, "EXTEND", 2, None, None, "1 of 3 answered"),
    ([disk(answered=0)], {}, "EXTEND", 3, None, None, "0 of 3"),
    ([disk(timed=False)], {}, "EXTEND", 0, None, None, "timing pass is missing"),
    ([disk(scored=False)], {}, "RESCORE", 0, None, None, "scores are missing or of another eval version"),
    ([disk(errors=2)], {}, "REUSE", 0, None, None, "complete"),
    ([disk(errors=2)], {"retry_errors": True}, "RERUN", 2, None, None, "2 errors are tried again"),
    ([disk(errors=1, answered=2)], {"retry_errors": True}, "RERUN", 2, None, None, "1 errors"),
    ([disk(codes=(OLD,))], {}, "STALE", 3, None, None, "made by other code (2222222222, now 1111111111)"),
    ([disk(codes=(OLD,))], {"accept_code": True}, "RESCORE", 0, None, OLD, "answered"),
    ([disk(codes=(OLD,), answered=1)], {"accept_code": True}, "EXTEND", 2, None, OLD, "1 of 3"),
    ([disk(codes=(CODE, OLD))], {}, "REUSE", 0, None, None, "complete"),  # accepted before
    ([disk(codes=())], {}, "STALE", 3, None, None, "unknown"),
    ([disk(**SIBLING)], {}, "RESCORE", 0, "other", None, "answered in run other"),
    ([disk(answered=2, **SIBLING)], {}, "EXTEND", 1, "other", None, "2 of 3 answered in run other"),
    ([disk(codes=(OLD,), **SIBLING)], {}, "STALE", 3, None, None, "other code"),
    ([disk(answered=1, **SIBLING), disk(answered=2, run="third", own=False)], {}, "EXTEND", 1, "third", None, "in run third"),
    ([disk(**SIBLING), disk(answered=1)], {}, "EXTEND", 2, None, None, "1 of 3"),
    ([disk(codes=(OLD,)), disk(**SIBLING)], {}, "RESCORE", 0, "other", None, "in run other"),
    ([disk(codes=(OLD,), **SIBLING), disk(answered=1)], {"accept_code": True}, "EXTEND", 2, None, None, "1 of 3"),
]  # fmt: skip


@pytest.mark.parametrize(("places", "options", "status", "missing", "source", "accepted", "words"), STATUSES)
def test_status_with_its_reason(
    loader: Loader,
    places: list[OnDisk],
    options: dict[str, bool],
    status: str,
    missing: int,
    source: str | None,
    accepted: str | None,
    words: str,
) -> None:
    found = Made(loader).cell(*places, **options)
    assert (found.status, found.missing, found.source, found.accepted_code) == (status, missing, source, accepted)
    assert words in found.reason


def test_only_what_lacks_answers_makes_jobs(loader: Loader) -> None:
    made = Made(loader)
    assert len(made.plan().jobs) == 1
    assert made.plan(disk()).jobs == made.plan(disk(scored=False)).jobs == ()
    assert len(made.plan(disk(timed=False)).jobs) == len(made.plan(disk(codes=(OLD,))).jobs) == 1


def test_a_model_that_is_not_here_lists_its_cells_and_says_what_fetches_it(loader: Loader) -> None:
    made = Made(loader, models={"tiny": None})
    found = made.cell()
    assert (found.status, found.missing) == ("NEW", 3)
    assert "longctx models fetch tiny" in found.reason
    assert found.estimate.kv_bytes is None


def test_a_task_whose_size_is_not_known_is_planned(loader: Loader) -> None:
    made = Made(loader)
    key = next(iter(made.facts.tasks))
    planned = builders.task(key=key[0], requests=None, fetch="longctx data needle")
    made.facts = dataclasses.replace(made.facts, tasks={key: TaskFacts(planned=planned, covers=None)})
    made.identities, _ = identify(expand(made.loaded, None, "cpu"), made.loaded.manifest, made.facts)
    assert (made.cell().requests, made.cell().missing) == (None, None)
    found = made.cell(disk(answered=2, scored=False))
    assert (found.status, found.missing, found.reason) == ("EXTEND", None, "2 of ? answered")
    assert made.plan().tasks[0].fetch == "longctx data needle"


def test_an_environment_that_cannot_be_had_is_not_run(loader: Loader) -> None:
    text = BASE.replace("- method: sinks\n", "- method: full-kv\n    environment: tf4.40\n  - method: sinks\n")
    made = Made(loader, text, unavailable={"tf4.40": "no Python 3.11"})
    assert [one.cell.variant.environment.name for one in made.identities] == ["tf5"]
    (absent,) = made.plan().absent
    assert (absent.kind, absent.environment, absent.reason) == ("not_run", "tf4.40", "no Python 3.11")


def test_cells_in_the_hosts_own_python_say_that_it_is_not_locked(loader: Loader) -> None:
    assert Made(loader).cell().locked
    builders.record_system()
    cell = Made(loader, environments={"system": "9" * 64, "tf5": "5" * 64}).cell()
    assert (cell.environment, cell.locked, cell.family) == ("system", False, "kv") and ".system--" in cell.cell


def test_what_does_not_apply_comes_with_its_reason(loader: Loader) -> None:
    text = BASE.replace("params: {keep: 0.5}", "params: {keep: 0.5}\n  - method: quant\n    params: {bits: 2}")
    (absent,) = Made(loader, text).absent
    assert isinstance(absent, Absent)
    assert (absent.kind, absent.reason) == ("not_applicable", "quant runs on cuda, not on cpu")


# Hashes: what a cell is called and known by must not move without a reason.

GOLDEN = "df71d0b9d5b2c8001b0b7eb2acae60690d29dbda8697740592a1938aa28bedb4"


def test_the_configuration_hash_of_a_fixed_input(loader: Loader) -> None:
    """When this fails, every earlier answer of everybody is run again: is that meant?"""
    one = Made(loader).one
    assert one.config_sha256 == GOLDEN
    assert one.name == f"sinks-keep-0.5.tf5--tiny--needle-default--{GOLDEN[:10]}"


def config(loader: Loader, text: str = BASE, **known: Any) -> str:
    return Made(loader, text, **known).one.config_sha256


def changed_model(**more: Any) -> dict[str, Any]:
    return {"models": {"tiny": builders.model("tiny", **more)}}


def changed_job(**more: Any) -> dict[str, Any]:
    one = builders.model("tiny")
    return {"models": {"tiny": one.model_copy(update={"job": one.job.model_copy(update=more)})}}


@pytest.mark.parametrize(
    "known",
    [
        changed_model(folder="/elsewhere"), changed_model(source="hf:a/b"), changed_model(revision="abc"), changed_job(name="renamed"),
        changed_job(path="elsewhere"), {"code": {("sinks", "tf5"): OLD}}, {"engine": "docker"}, {"backend": "slurm"},
        {"environments": {"tf5": "5" * 64, "tf4.40": "0" * 64}},
    ],
)  # fmt: skip
def test_what_does_not_change_an_answer_does_not_change_the_configuration(loader: Loader, known: dict[str, Any]) -> None:
    assert config(loader, **known) == GOLDEN


@pytest.mark.parametrize(
    "known",
    [
        changed_model(identity_sha256="b" * 64), changed_job(dtype="bfloat16"), changed_job(window=8),
        changed_job(rope={"rope_theta": 1e6}), changed_job(template="x"),
        changed_job(trust_remote_code=True), {"environments": {"tf5": "6" * 64}},
    ],
)  # fmt: skip
def test_what_may_change_an_answer_changes_the_configuration(loader: Loader, known: dict[str, Any]) -> None:
    assert config(loader, **known) != GOLDEN


@pytest.mark.parametrize(
    "edit",
    [
        ("keep: 0.5", "keep: 0.25"), ("keep: 0.5", "keep: 0.5, first: 8"), ("needle/default", "needle/deep"),
        ("resources: {device: cpu", "seed: 7\nresources: {device: cpu"), ("device: cpu", "device: cpu, batch: 4"),
        ("device: cpu", "device: cpu, attention: sdpa"), ("needle/default}", "needle/default, prompting: {bos: none}}"),
    ],
)  # fmt: skip
def test_changed_parameters_make_another_cell(loader: Loader, edit: tuple[str, str]) -> None:
    assert config(loader, BASE.replace(*edit)) != GOLDEN


@pytest.mark.parametrize(
    "edit",
    [
        ("name: probe", "name: another\ndescription: words"),
        ("device: cpu", "device: cpu, threads: 2, parallel: 3, shards: 4, memory: 3g"),
        ("keep: 0.5}", "keep: 0.5, first: 4}"), ("keep: 0.5}", "keep: 0.5}\n    label: mine"), ("params: {keep: 0.5}", "preset: half"),
        ("needle/default}", "needle/default, label: mine}"), ("needle/default}", "needle/default, params: {words: 20}}"),
        ("resources:", "timing: {per_bucket: 5}\nresources:"), ("resources:", "engine: venv\nresources:"),
    ],
)  # fmt: skip
def test_what_is_written_another_way_is_the_same_cell(loader: Loader, edit: tuple[str, str]) -> None:
    """A task's own parameters are no part of it: they show in the requests' hashes, so that a longer task keeps its answers."""
    assert config(loader, BASE.replace(*edit)) == GOLDEN


def test_a_method_that_cannot_batch_keeps_its_cells_when_the_batch_grows(loader: Loader) -> None:
    made = Made(loader, BASE.replace("device: cpu", "device: cpu, batch: 4"))
    variant = made.one.cell.variant
    spec = variant.method.spec.model_copy(update={"batch": False})
    alone = dataclasses.replace(variant, method=dataclasses.replace(variant.method, spec=spec))
    cells = (dataclasses.replace(made.one.cell, variant=alone),)
    expansion = dataclasses.replace(expand(made.loaded, None, "cpu"), cells=cells)
    made.identities, _ = identify(expansion, made.loaded.manifest, made.facts)
    assert made.one.config_sha256 == GOLDEN
    assert made.cell().batch == 1


def test_cells_have_names_of_their_own_that_fit_a_file(loader: Loader) -> None:
    long = "m" * 90
    text = f"""
    name: probe
    models: [{{name: {long}, source: 'random:tiny-llama', dtype: float32}}]
    methods:
      - method: sinks
        params: {{tokens: [100, 200], first: 100, variant: windowed, clone: false}}
    evals:
      - {{task: needle/default, label: {"t" * 90}}}
      - {{task: needle/default, prompting: {{bos: none}}, label: other}}
    """
    found = Made(loader, text).plan()
    names = [one.cell for one in found.cells]
    assert len(set(names)) == 4
    assert max(map(len, names)) <= 200, "longer than a job's cell may be"
    assert max(len(f".{name}.responses.jsonl") for name in names) <= 255


@pytest.mark.parametrize(("one", "other"), [("a+b", "a-b"), ("x" * 70, "x" * 71), ("a b", "a-b")])
def test_different_names_never_share_a_job_folder(one: str, other: str) -> None:
    assert slug(one) == slug(other)
    assert unique_slug(one) != unique_slug(other)
    assert unique_slug("tiny-llama.1.0") == "tiny-llama.1.0"


# Jobs and tokenising.

MATRIX = """
name: probe
models: [tiny, {name: second, source: 'random:tiny-llama', dtype: float32}]
methods:
  - method: sinks
    params: {keep: [0.25, 0.5]}
  - method: full-kv
  - method: full-kv
    environment: tf4.40
evals:
  - {task: needle/default}
  - {task: needle/deep, prompting: {bos: none}}
resources: {device: cpu, memory: 3g, threads: 2, parallel: 2}
"""


def test_one_job_a_family_environment_and_model(loader: Loader) -> None:
    found = Made(loader, MATRIX).plan()
    assert len(found.cells) == 16
    assert [(job.job, len(job.cells)) for job in found.jobs] == [
        ("kv.tf5--tiny", 6), ("full-kv-native.tf4.40--tiny", 2), ("kv.tf5--second", 6), ("full-kv-native.tf4.40--second", 2),
    ]  # fmt: skip
    assert found.parallel == 2
    assert {job.limits.memory_bytes for job in found.jobs} == {3 * 2**30}
    assert {job.device.threads for job in found.jobs} == {2}
    assert sorted(cell for job in found.jobs for cell in job.cells) == sorted(cell.cell for cell in found.cells)


def test_tasks_are_numbered_through(loader: Loader) -> None:
    found = Made(loader, MATRIX.replace("parallel: 2", "shards: 3")).plan()
    numbers = [task.task for task in found.tokenise] + [job.task for job in found.jobs]
    assert numbers == list(range(2 + 4 * 3))
    assert [(job.shard, job.shards) for job in found.jobs[:3]] == [(0, 3), (1, 3), (2, 3)]
    assert len({job.job for job in found.jobs}) == 12
    assert len({job.cells for job in found.jobs[:3]}) == 1


def test_each_model_is_tokenised_once_for_all_methods(loader: Loader) -> None:
    found = Made(loader, MATRIX).plan()
    assert [(task.model, task.environment, len(task.items)) for task in found.tokenise] == [("second", "tf5", 2), ("tiny", "tf5", 2)]
    names = [item[2] for task in found.tokenise for item in task.items]
    assert len(set(names)) == 4
    assert "tiny/needle-default.ids" in names


def test_estimates_follow_the_longest_prompt(loader: Loader) -> None:
    made = Made(loader)
    name = jobs.ids_name("tiny", made.one.task.planned.key, {**builders.cell().prompting.model_dump(mode="json")})
    found = made.plan(lengths={name: Lengths(100, 250)}).cells[0].estimate
    assert (found.longest, found.prompt_tokens) == (100, 250)
    assert found.kv_bytes == 7 * 100 * 4
    assert found.kv_full_bytes == 2 * 3 * 2 * 16 * 100 * 4


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"num_attention_heads": 4, "hidden_size": 64, "num_hidden_layers": 3}, 2 * 3 * 4 * 16 * 10 * 2),
        ({"num_attention_heads": 4, "num_key_value_heads": None, "head_dim": None, "hidden_size": 64, "num_hidden_layers": 3}, 7680),
        ({"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 128, "num_hidden_layers": 3}, 2 * 3 * 128 * 10 * 2),
        ({"hidden_size": 64, "num_hidden_layers": 3}, None),
        ({"num_attention_heads": 0, "hidden_size": 64, "num_hidden_layers": 3}, None),
        ({"num_attention_heads": [4, 8], "hidden_size": 64, "num_hidden_layers": 3}, None),
        ({}, None),
    ],
)
def test_bytes_of_a_native_cache(config: dict[str, Any], expected: int | None) -> None:
    assert full_kv_bytes(config, 10, 2) == expected


@pytest.mark.parametrize(("text", "expected"), [("24g", 24 * 2**30), ("512MiB", 2**29), ("1.5G", 3 * 2**29), ("2k", 2048), ("1TB", 2**40)])
def test_sizes_in_words(text: str, expected: int) -> None:
    assert bytes_of(text) == expected


def test_a_plan_survives_its_file(loader: Loader) -> None:
    found = Made(loader, MATRIX).plan()
    assert Plan.model_validate_json(found.model_dump_json()) == found


def test_ten_thousand_cells_are_planned_in_seconds(loader: Loader) -> None:
    """A coarse guard: the benchmark holds the real figure, 2 s; here ten times that would be a mistake in how the work grows."""
    models = ", ".join(f"{{name: m{number}, source: 'random:tiny-llama', dtype: float32}}" for number in range(10))
    keeps = ", ".join(str(round(0.01 * number, 2)) for number in range(1, 51))
    evals = "\n".join(f"  - {{task: needle/default, label: e{number}}}" for number in range(20))
    made = Made(loader, f"name: big\nmodels: [{models}]\nmethods:\n  - {{method: sinks, params: {{keep: [{keeps}]}}}}\nevals:\n{evals}\n")
    started = time.process_time()
    found = made.plan()
    assert len(found.cells) == 10_000
    assert time.process_time() - started < 10


def test_the_order_of_the_manifest_is_kept(loader: Loader) -> None:
    found = Made(loader, MATRIX).plan()
    assert [cell.label for cell in found.cells[:8:2]] == ["sinks", "sinks{keep: 0.5}", "full-kv", "full-kv"]
