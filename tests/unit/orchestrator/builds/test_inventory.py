"""Which images there are, which are stale or missing, and what removing and exporting them leaves."""

from pathlib import Path

import pytest
import requests
from unit.orchestrator.builds.fakes import BASE, FakeApi, Workshop, environment_at

from longctx.orchestrator import code
from longctx.orchestrator.builds import inventory
from longctx.orchestrator.builds.inventory import Entry
from longctx.orchestrator.builds.recipe import LABEL, environment_tag
from longctx.orchestrator.catalog import Catalog
from longctx.orchestrator.contracts.manifest import ModelSpec
from longctx.orchestrator.errors import EngineUnavailable, EnvironmentFailed, StorageError, UsageError
from longctx.orchestrator.manifest.models import KnownModel

METHOD = """\
name: {name}
title: One
paper: null
summary: It does one thing. It gives up another.
environments:
  - {{name: {environment}, family: {family}, entry: "methods.{name}.policy:Family"}}
accepts: ["*"]
devices: {devices}
estimate: estimate:estimate
"""


def method(root: Path, name: str, *, environment: str = "small", family: str = "kv", devices: str = "[cpu, cuda]") -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    for file in ("policy.py", "estimate.py"):
        (folder / file).write_text(f"# {name}")
    (folder / "method.yaml").write_text(METHOD.format(name=name, environment=environment, family=family, devices=devices))
    return folder


@pytest.fixture
def catalog(workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    """Two methods of one family, one of another that needs a GPU; prompts are tokenised in the environment ``small``."""
    methods = tmp_path / "methods"
    monkeypatch.setattr(code, "METHODS", methods)
    code._folder_digest.cache_clear()
    code._imported.cache_clear()
    spec = ModelSpec(name="m", source="random:tiny", environment="small")
    monkeypatch.setattr(inventory, "known_models", lambda: {"m": KnownModel(spec=spec, where="here")})
    workshop.base()
    return Catalog([method(methods, "a"), method(methods, "b"), method(methods, "c", family="gpu", devices="[cuda]")])


def build(workshop: Workshop, catalog: Catalog, *names: str, device: str = "cpu", methods: tuple[str, ...] = ()) -> int:
    chosen = [catalog.get(name) for name in methods]
    return inventory.build(workshop.maker, names, "cuda" if device == "cuda" else "cpu", catalog, chosen, workshop.said.append)


def states(workshop: Workshop, catalog: Catalog) -> dict[str, str]:
    return {one.name.rpartition("-")[0] or one.name: one.state for one in inventory.inventory(workshop.maker, catalog)}


def test_all_that_a_run_needs_is_built_and_nothing_twice(workshop: Workshop, catalog: Catalog) -> None:
    assert build(workshop, catalog) == 3
    assert [recipe.tag.partition(":")[0] for recipe, _, _ in workshop.thin] == ["longctx/small-kv", "longctx/small-runner"]
    family, runner = (folder for _, _, folder in workshop.thin)
    assert {path.name for path in (family / "methods").iterdir()} == {"a", "b"}
    assert list((runner / "methods").iterdir()) == []
    before = len(workshop.thin), len(workshop.built)
    assert build(workshop, catalog) == 3
    assert (len(workshop.thin), len(workshop.built)) == before


def test_for_gpus_prompts_still_need_the_runner_on_the_cpu(workshop: Workshop, catalog: Catalog) -> None:
    assert build(workshop, catalog, device="cuda") == 5
    tags = [recipe.tag.rpartition("-")[0] for recipe, _, _ in workshop.thin]
    assert tags == ["longctx/small-gpu:cuda", "longctx/small-kv:cuda", "longctx/small-runner:cpu"]


def test_only_what_a_method_needs(workshop: Workshop, catalog: Catalog) -> None:
    build(workshop, catalog, device="cuda", methods=("c",))
    assert [recipe.labels[f"{LABEL}.family"] for recipe, _, _ in workshop.thin] == ["gpu", ""]


def test_a_method_of_ones_own_joins_its_family(workshop: Workshop, catalog: Catalog, tmp_path: Path) -> None:
    mine = catalog.at(method(tmp_path / "home", "mine"))
    inventory.build(workshop.maker, (), "cpu", catalog, [mine], print)
    assert {path.name for path in (workshop.thin[0][2] / "methods").iterdir()} == {"a", "b", "mine"}


def test_a_method_that_runs_elsewhere(workshop: Workshop, catalog: Catalog, tmp_path: Path) -> None:
    environment_at(tmp_path / "images" / "other")
    with pytest.raises(UsageError, match="None of these methods runs in other") as raised:
        build(workshop, catalog, "other", methods=("a",))
    assert "small" in raised.value.next_step
    assert workshop.built == []


def test_what_is_there_what_is_stale_and_what_is_missing(workshop: Workshop, catalog: Catalog) -> None:
    assert states(workshop, catalog) == {"longctx/small:cpu": "missing", "longctx/small:cuda": "missing"}
    build(workshop, catalog)
    everything = dict.fromkeys(("longctx/small:cpu", "longctx/small-kv:cpu", "longctx/small-runner:cpu"), "current")
    seen = states(workshop, catalog)
    assert seen.items() >= {**everything, "longctx/small:cuda": "missing"}.items()
    assert [state for name, state in seen.items() if name.startswith("longctx/python")] == ["current"]


def test_an_edited_method_leaves_its_familys_image_stale_and_no_other(workshop: Workshop, catalog: Catalog, tmp_path: Path) -> None:
    build(workshop, catalog)
    (tmp_path / "methods" / "a" / "policy.py").write_text("# edited")
    code._folder_digest.cache_clear()
    found = [(one.name.partition(":")[0], one.state) for one in inventory.inventory(workshop.maker, catalog) if one.device == "cpu"]
    assert sorted(found) == [
        ("longctx/small", "current"), ("longctx/small-kv", "missing"), ("longctx/small-kv", "stale"), ("longctx/small-runner", "current"),
    ]  # fmt: skip


def test_another_base_leaves_everything_stale(workshop: Workshop, catalog: Catalog) -> None:
    build(workshop, catalog)
    workshop.api.add(BASE, id_="sha256:moved")
    assert {one.state for one in inventory.inventory(workshop.maker, catalog) if one.id} == {"stale"}


def test_sizes_and_images_of_others(workshop: Workshop, catalog: Catalog) -> None:
    tag = environment_tag(workshop.environment, "cpu", BASE)
    labels = {LABEL: "environment", f"{LABEL}.base": BASE, f"{LABEL}.base-id": workshop.api.images[BASE]["Id"]}
    workshop.api.add(tag, labels, size=100, shared=60)
    workshop.api.add("mine:1", labels)  # made on top of ours: it has our labels
    workshop.api.add("longctx/nothing-of-ours:1")
    workshop.api.add("sha256:dangling", labels, id_="sha256:dangling", size=10, shared=-1)
    found = {one.name: one for one in inventory.inventory(workshop.maker, catalog) if one.id}
    assert found.keys() == {tag, "sha256:dangling"}
    assert (found[tag].own, found[tag].state) == (40, "current")
    assert (found["sha256:dangling"].own, found["sha256:dangling"].state) == (None, "stale")


@pytest.fixture
def stale(workshop: Workshop, catalog: Catalog, tmp_path: Path) -> str:
    """Return the name of the one stale image beside current ones."""
    build(workshop, catalog)
    name = workshop.thin[0][0].tag
    (tmp_path / "methods" / "a" / "policy.py").write_text("# edited")
    code._folder_digest.cache_clear()
    build(workshop, catalog)
    return name


def prune(workshop: Workshop, catalog: Catalog, *, everything: bool = False, dry_run: bool = False) -> inventory.Pruned:
    return inventory.prune(workshop.maker, catalog, everything=everything, dry_run=dry_run, report=print)


def test_prune_removes_what_is_stale_and_says_what_it_freed(workshop: Workshop, catalog: Catalog, stale: str) -> None:
    before = set(workshop.api.images)
    assert prune(workshop, catalog, dry_run=True) == inventory.Pruned(removed=(stale,), freed=40)
    assert set(workshop.api.images) == before
    assert prune(workshop, catalog) == inventory.Pruned(removed=(stale,), freed=40)
    assert set(workshop.api.images) == before - {stale}
    assert prune(workshop, catalog) == inventory.Pruned(removed=(), freed=0)


def test_prune_all_leaves_nothing_of_ours_and_all_of_others(workshop: Workshop, catalog: Catalog, stale: str) -> None:
    done = prune(workshop, catalog, everything=True)
    assert set(workshop.api.images) == {BASE}
    kinds = [name.partition(":")[0] for name in done.removed]
    assert kinds[-1] == "longctx/python"
    assert kinds.index("longctx/small") > kinds.index("longctx/small-kv"), "what lies on top goes first"


def test_an_image_in_use_is_kept_and_told(workshop: Workshop, catalog: Catalog, stale: str) -> None:
    workshop.api.used = {stale}
    done = prune(workshop, catalog)
    assert (done.removed, list(done.kept)) == ((), [stale])
    assert "is used" in done.kept[stale]


def entry(name: str, environment: str = "tf5", state: inventory.State = "current", there: bool = True) -> Entry:
    return Entry(name=name, kind="family", device="cpu", environment=environment, state=state, id="sha256:1" if there else None)


THERE = (
    entry("longctx/tf5:cpu-1"),
    entry("longctx/tf5-kv:cpu-2"),
    entry("longctx/tf5:cpu-0", state="stale"),
    entry("longctx/x:1", "x", there=False),
)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("tf5",), ("longctx/tf5:cpu-1", "longctx/tf5-kv:cpu-2")),
        (("longctx/tf5:cpu-0",), ("longctx/tf5:cpu-0",)),
        (("tf5:cpu-1", "tf5"), ("longctx/tf5:cpu-1", "longctx/tf5-kv:cpu-2")),
    ],
)
def test_names_to_export(names: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert inventory.chosen(THERE, names) == expected


@pytest.mark.parametrize("name", ["x", "nothing", "tf5-kv"])
def test_what_is_not_there_cannot_be_exported(name: str) -> None:
    with pytest.raises(UsageError, match=f"no image '{name}'") as raised:
        inventory.chosen(THERE, [name])
    assert "tf5" in raised.value.next_step


ARCHIVE = [b"x" * 1000, b"y" * 500 + bytes(600), bytes(424)]


def exported(workshop: Workshop, out: Path, told: list[int] | None = None) -> int:
    workshop.api.add("one:1")
    workshop.api.add("two:1")
    return inventory.export(workshop.maker, ["one:1", "two:1"], out, ([] if told is None else told).append)


def test_an_export_is_one_archive(workshop: Workshop, tmp_path: Path) -> None:
    workshop.api.archive = ARCHIVE
    told: list[int] = []
    assert exported(workshop, tmp_path / "o.tar", told) == 2524
    assert (tmp_path / "o.tar").read_bytes() == b"".join(ARCHIVE)
    assert told == [1000, 2100, 2524]
    assert "get http+docker://localhost/v1.45/images/get {'names': ['one:1', 'two:1']}" in workshop.api.calls
    assert "close" in workshop.api.calls


def lost(self: FakeApi, size: int) -> object:
    yield b"x" * 100
    raise requests.exceptions.ChunkedEncodingError("connection broken")


@pytest.mark.parametrize("earlier", [None, b"earlier"])
def test_an_engine_that_goes_away_leaves_nothing_behind(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: bytes | None
) -> None:
    out = tmp_path / "out" / "o.tar"
    if earlier:
        out.parent.mkdir()
        out.write_bytes(earlier)
    monkeypatch.setattr(FakeApi, "iter_content", lost)
    with pytest.raises(EngineUnavailable, match="exporting images"):
        exported(workshop, out)
    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == ({"o.tar": earlier} if earlier else {})


def test_a_full_disk_leaves_nothing_behind(workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource
    import signal

    workshop.api.archive = ARCHIVE
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    heard = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, before[1]))
    try:
        with pytest.raises(StorageError, match="too large"):
            exported(workshop, tmp_path / "out" / "o.tar")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, heard)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_archive_that_breaks_off_is_no_export(workshop: Workshop, tmp_path: Path) -> None:
    workshop.api.archive = ARCHIVE[:1]
    with pytest.raises(EnvironmentFailed, match="breaks off after 1000 bytes"):
        exported(workshop, tmp_path / "o.tar")
    assert not (tmp_path / "o.tar").exists()


def test_an_engine_that_refuses(workshop: Workshop, tmp_path: Path) -> None:
    workshop.api.status = 500
    with pytest.raises(EnvironmentFailed, match="the engine says no"):
        exported(workshop, tmp_path / "o.tar")
    with pytest.raises(EnvironmentFailed, match="has not got gone:1"):
        inventory.export(workshop.maker, ["gone:1"], tmp_path / "o.tar", print)


def test_the_hosts_own_python_has_no_image(workshop: Workshop) -> None:
    from unit.orchestrator.builders import record_system

    record_system("small")
    assert [one.spec.name for one in inventory.imaged()] == ["small"]
    with pytest.raises(UsageError, match="it has no image"):
        inventory.imaged(["system"])
