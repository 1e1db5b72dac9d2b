import pytest
from unit.orchestrator.builders import record_system
from unit.orchestrator.manifest.samples import Loader

from longctx.orchestrator.errors import ManifestError
from longctx.orchestrator.manifest.expand import expand
from longctx.orchestrator.manifest.variants import variant_name

START = "name: try\nmodels: [tiny]\nevals: [{task: needle/default}]\nmethods: "


def labels(load: Loader, methods: str) -> list[tuple[str, str]]:
    return [(variant.name, variant.label) for variant in load(f"{START}[{methods}]\n").variants]


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        ("{method: sinks}", ["sinks"]),
        ("{method: sinks, params: {keep: 0.25}}", ["sinks"]),
        ("{method: sinks, params: {variant: windowed, keep: 0.5}}", ["sinks{keep: 0.5, variant: windowed}"]),
        ("{method: sinks, params: {keep: 1}}", ["sinks{keep: 1}"]),
        ("{method: sinks, params: {tokens: 64, clone: false}}", ["sinks{clone: false, tokens: 64}"]),
        ("{method: sinks, params: {tokens: 1000000}}", ["sinks{tokens: 1000000}"]),
        ("{method: sinks, params: {keep: null, tokens: null}}", ["sinks"]),
        ("{method: sinks, preset: half}", ["sinks{half}"]),
        ("{method: sinks, preset: half, params: {first: 8}}", ["sinks{half, first: 8}"]),
        ("{method: sinks, preset: half, params: {keep: 0.75}}", ["sinks{half, keep: 0.75}"]),
        ("{method: sinks, params: {keep: [0.5, 0.75], first: [0, 8]}}", [
            "sinks{first: 0, keep: 0.5}", "sinks{first: 8, keep: 0.5}", "sinks{first: 0, keep: 0.75}", "sinks{first: 8, keep: 0.75}",
        ]),
    ],
)  # fmt: skip
def test_names_are_canonical(selection: str, names: list[str], load: Loader) -> None:
    assert [name for name, _ in labels(load, selection)] == names


def test_the_order_of_keys_does_not_matter(load: Loader) -> None:
    one = load(f"{START}[{{method: sinks, params: {{first: 8, variant: windowed}}}}]\n").variants[0]
    other = load(f"{START}[{{method: sinks, params: {{variant: windowed, first: 8}}}}]\n").variants[0]
    assert (one.name, dict(one.params)) == (other.name, dict(other.params))


def test_all_parameters_are_bound(load: Loader) -> None:
    first, second, third = load(
        f"{START}[{{method: sinks}}, {{method: sinks, params: {{tokens: 9}}}}, {{method: sinks, preset: half}}]\n"
    ).variants
    assert first.params == {"variant": "pruned", "keep": 0.25, "tokens": None, "first": 4, "clone": True}
    assert second.params == {"variant": "pruned", "keep": None, "tokens": 9, "first": 4, "clone": True}
    assert third.params["keep"] == 0.5


def test_a_whole_number_for_a_fraction_becomes_one(load: Loader) -> None:
    keep = load(f"{START}[{{method: sinks, params: {{keep: 1}}}}]\n").variants[0].params["keep"]
    assert isinstance(keep, float)


def test_labels(load: Loader) -> None:
    assert labels(load, "{method: full-kv, label: everything}") == [("full-kv", "everything")]
    assert labels(load, "{method: sinks, label: S, params: {first: 8, keep: [0.5, 0.25]}}") == [
        ("sinks{first: 8, keep: 0.5}", "S{keep: 0.5}"), ("sinks{first: 8}", "S{keep: 0.25}"),
    ]  # fmt: skip


def test_a_family_is_the_environments_or_the_method_itself(load: Loader) -> None:
    found = load(f"{START}[{{method: full-kv, environment: tf4.40}}, {{method: quant, params: {{bits: 2}}}}]\n").variants
    assert [(variant.family, variant.environment.entry) for variant in found] == [
        ("full-kv-native", "methods.full_kv.native:Family"), ("quant", "methods.quant.family:Family"),
    ]  # fmt: skip


def test_a_name_can_be_made_from_bound_parameters(load: Loader) -> None:
    method = load.catalog.get("quant")
    assert variant_name(method, method.bind(None, {"bits": 4})) == "quant{bits: 4}"


def served(load: Loader, methods: str) -> list[tuple[str, str | None, str, str]]:
    found = load(f"{START}[{methods}]\n").variants
    return [(each.environment.name, each.instead_of, each.family, each.environment.entry) for each in found]


def test_the_hosts_own_python_takes_the_place_of_what_it_is_like(load: Loader) -> None:
    methods = "{method: full-kv}, {method: full-kv, environment: tf4.40}, {method: sinks, environment: tf5}"
    before = served(load, methods)
    record_system()
    after = served(load, methods)
    assert [each[:2] for each in before] == [("tf5", None), ("tf4.40", None), ("tf5", None)]
    assert [each[:2] for each in after] == [("system", "tf5"), ("tf4.40", None), ("system", "tf5")]
    assert [each[2:] for each in after] == [each[2:] for each in before], "family and entry are those of the environment it is like"


def test_it_may_be_named_where_the_method_names_what_it_is_like(load: Loader) -> None:
    record_system("tf4.40")
    assert [each[:2] for each in served(load, "{method: full-kv, environment: system}")] == [("system", "tf4.40")]
    with pytest.raises(ManifestError, match=r"sinks has no environment 'system'; allowed: tf5\n"):
        load(f"{START}[{{method: sinks, environment: system}}]\n")
    with pytest.raises(ManifestError, match=r"full-kv has no environment 'tf6'; allowed: tf5, tf4\.40, system"):
        load(f"{START}[{{method: full-kv, environment: tf6}}]\n")


def test_both_of_its_names_are_one_selection(load: Loader) -> None:
    record_system()
    with pytest.raises(ManifestError, match="full-kv in system is selected twice"):
        load(f"{START}[{{method: full-kv, environment: system}}, {{method: full-kv, environment: tf5}}]\n")


def test_prompts_are_tokenised_by_the_hosts_own_python(load: Loader) -> None:
    assert [model.spec.environment for model in load(f"{START}[{{method: full-kv}}]\n").models] == ["tf5"]
    record_system()
    assert [model.spec.environment for model in load(f"{START}[{{method: full-kv}}]\n").models] == ["system"]


@pytest.mark.parametrize("name", ["tf5", "system", "sys*"])
def test_filters_match_by_either_name(load: Loader, name: str) -> None:
    record_system()
    loaded = load(f"{START}[{{method: full-kv}}, {{method: full-kv, environment: tf4.40}}]\ninclude: [{{environment: '{name}'}}]\n")
    assert [cell.variant.environment.name for cell in expand(loaded).cells] == ["system"]
