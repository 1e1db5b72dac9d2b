import dataclasses

import pytest
from unit.orchestrator.manifest.samples import Loader

from longctx.orchestrator.contracts.plan import Absent
from longctx.orchestrator.errors import ManifestError
from longctx.orchestrator.manifest.expand import expand
from longctx.orchestrator.manifest.selected import Cell, Expansion

MATRIX = """\
name: try
models: [tiny, tiny-gemma]
methods:
  - method: full-kv
  - {method: full-kv, environment: tf4.40}
  - {method: sinks, params: {keep: [0.5, 0.25]}}
evals:
  - task: needle/default
  - {task: needle/deep, label: far}
"""
SINGLE = "name: try\nmodels: [tiny-gemma]\nmethods: [{method: sinks}]\nevals: [{task: needle/default}]\n"


def architecture(model: object) -> str:
    return {"tiny": "LlamaForCausalLM", "tiny-gemma": "Gemma2ForCausalLM"}[getattr(model, "name", "")]


def short(cells: tuple[Cell, ...]) -> list[str]:
    return [f"{cell.model.name} {cell.variant.name} {cell.variant.environment.name} {cell.eval.key}" for cell in cells]


def test_all_cells_in_order(load: Loader) -> None:
    found = expand(load(MATRIX))
    assert short(found.cells[:8]) == [
        "tiny full-kv tf5 needle-default", "tiny full-kv tf5 far", "tiny full-kv tf4.40 needle-default", "tiny full-kv tf4.40 far",
        "tiny sinks{keep: 0.5} tf5 needle-default", "tiny sinks{keep: 0.5} tf5 far", "tiny sinks tf5 needle-default", "tiny sinks tf5 far",
    ]  # fmt: skip
    assert len(found.cells) == 16
    assert len({cell.label for cell in found.cells}) == 16
    assert found.absent == ()


def test_what_does_not_apply_is_absent_with_the_reason(load: Loader) -> None:
    found = expand(load(MATRIX), architecture)
    assert len(found.cells) == 12
    assert found.absent[0] == Absent(
        variant="sinks{keep: 0.5}", model="tiny-gemma", task="needle-default", environment="tf5", kind="not_applicable",
        reason="sinks takes LlamaForCausalLM, MistralForCausalLM, not Gemma2ForCausalLM",
    )  # fmt: skip
    assert {(row.variant, row.model, row.kind) for row in found.absent} == {
        ("sinks{keep: 0.5}", "tiny-gemma", "not_applicable"), ("sinks", "tiny-gemma", "not_applicable"),
    }  # fmt: skip


def test_an_architecture_that_is_not_known_refuses_nothing(load: Loader) -> None:
    assert len(expand(load(MATRIX), lambda model: None).cells) == 16


def test_a_single_pair_that_does_not_apply_is_an_error(load: Loader) -> None:
    loaded = load(SINGLE)
    with pytest.raises(ManifestError, match=r"m\.yaml:3:20: methods\[0\]\.method: sinks cannot take tiny-gemma: sinks takes LlamaFor"):
        expand(loaded, architecture)
    assert [cell.explicit for cell in expand(loaded).cells] == [True]


def test_an_include_of_exactly_one_pair_is_explicit(load: Loader) -> None:
    loaded = load(MATRIX + "include: [{model: tiny-gemma, method: sinks}, {model: tiny}]\n")
    with pytest.raises(ManifestError, match="cannot take tiny-gemma"):
        expand(loaded, architecture)
    wild = load(MATRIX + "include: [{model: tiny-*, method: sinks}, {model: tiny}]\n")
    assert {row.kind for row in expand(wild, architecture).absent} == {"not_applicable", "not_run"}


def test_the_device_decides_too(load: Loader) -> None:
    text = SINGLE.replace("{method: sinks}", "{method: full-kv}, {method: quant, params: {bits: 2}}")
    assert len(expand(load(text)).cells) == 2
    for found in (expand(load(text), device="cpu"), expand(load(text + "resources: {device: cpu}\n"))):
        assert [row.reason for row in found.absent] == ["quant runs on cuda, not on cpu"]
    assert len(expand(load(text + "resources: {device: cuda}\n")).cells) == 2


def test_a_question_that_is_not_seen_needs_a_method_for_it(load: Loader) -> None:
    found = expand(load(MATRIX.replace("label: far", "label: far, prompting: {question: unseen}")))
    assert {cell.eval.key for cell in found.cells} == {"needle-default"}
    assert {row.reason for row in found.absent} == {
        "full-kv does not compress before it has seen the question",
        "sinks does not compress before it has seen the question",
    }


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        ("include: [{model: tiny}]", 8),
        ("include: [{method: full-kv, environment: tf4.40}]", 4),
        ("include: [{method: 'sinks{*'}]", 4),
        ("include: [{method: sinks}]", 8),
        ("include: [{task: far}, {task: needle/default, model: tiny}]", 12),
        ("exclude: [{model: '*-gemma', method: 'full*'}]", 12),
        ("exclude: [{task: 'needle/*', model: tiny, environment: tf5, method: sinks}]", 12),
        ("include: [{model: tiny}]\nexclude: [{task: far}]", 4),
    ],
)
def test_filters(filters: str, left: int, load: Loader) -> None:
    found = expand(load(f"{MATRIX}{filters}\n"))
    assert len(found.cells) == left
    assert len(found.absent) == 16 - left
    assert {row.kind for row in found.absent} == {"not_run"}
    assert all("exclude[0] of the manifest" in row.reason or "no include" in row.reason for row in found.absent)


def test_ten_thousand_cells_validate_nothing_anew(load: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    evals = "".join(f"  - {{task: needle/default, label: e{index}}}\n" for index in range(100))
    loaded = load(
        "name: big\nmodels: [tiny, tiny-gemma]\nmethods:\n"
        f"  - {{method: sinks, params: {{tokens: {list(range(1, 51))}}}}}\nevals:\n{evals}exclude: [{{task: e7}}]\n"
    )
    asked: list[str] = []

    def counted(model: object) -> str:
        asked.append(getattr(model, "name", ""))
        return "LlamaForCausalLM"

    monkeypatch.setattr(Absent, "__init__", lambda self, **values: pytest.fail("validated a row"))
    found: Expansion = expand(loaded, counted)
    assert len(found.cells) == 9900
    assert asked == ["tiny", "tiny-gemma"]
    assert found.cells[0].variant is found.cells[1].variant
    assert not hasattr(found.cells[0], "__dict__")
    assert dataclasses.is_dataclass(found.cells[0])
