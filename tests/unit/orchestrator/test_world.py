"""What a manifest meets on this host."""

from pathlib import Path
from typing import Any

import pytest
from unit.orchestrator.builders import record_system

from longctx.orchestrator import devices, engines, world
from longctx.orchestrator.errors import EngineUnavailable, ManifestError, UsageError
from longctx.orchestrator.plan import Options
from longctx.orchestrator.settings import Settings
from longctx.orchestrator.store import RunFolder

MANIFEST = """
name: probe
models: [{name: a, source: 'random:tiny-llama', dtype: float32}, {name: b, source: 'random:tiny-llama', dtype: float32}]
methods: [{method: full-kv}]
evals:
  - {task: passkey/default, params: {lengths: {words: [20]}}}
engine: venv
"""


class Fake:
    """An engine that is there, or says why not."""

    def __init__(self, name: str, reason: str | None) -> None:
        self.name, self.reason = name, reason

    def unavailable(self) -> str | None:
        return self.reason


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache=tmp_path / "cache", runs=tmp_path / "runs", data=tmp_path / "data")


def offer(monkeypatch: pytest.MonkeyPatch, **reasons: str | None) -> None:
    made: Any = {name: lambda settings, name=name: Fake(name, reasons[name]) for name in reasons}
    monkeypatch.setattr(engines, "ENGINES", made)


def test_auto_takes_the_first_engine_that_answers(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    offer(monkeypatch, venv=None, docker=None)
    assert world.choose_engine("auto", settings).name == "docker"
    offer(monkeypatch, venv=None, docker="no socket")
    assert world.choose_engine("auto", settings).name == "venv"
    offer(monkeypatch, venv=None)
    assert world.choose_engine("auto", settings).name == "venv"


def test_no_engine_gives_every_reason(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    offer(monkeypatch, venv="uv is missing", docker="no socket")
    with pytest.raises(EngineUnavailable, match=r"docker: no socket\n.*venv: uv is missing\n.*--engine"):
        world.choose_engine("auto", settings)
    with pytest.raises(EngineUnavailable) as caught:
        world.choose_engine("venv", settings)
    assert "docker" not in str(caught.value), "a named engine is never replaced by another"
    with pytest.raises(UsageError, match="no engine is called 'dokcer'"):
        world.choose_engine("dokcer", settings)


def write(tmp_path: Path, text: str = MANIFEST) -> Path:
    (tmp_path / "m.yaml").write_text(text)
    return tmp_path / "m.yaml"


def look(tmp_path: Path, settings: Settings, text: str = MANIFEST, *, fetch: bool = True) -> world.World:
    return world.look(world.read(write(tmp_path, text), settings), settings, "venv", lambda line: None, fetch=fetch)


@pytest.fixture
def _venv(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, venv=None)
    monkeypatch.setattr(devices, "gpus", lambda: ())


@pytest.mark.usefixtures("_venv")
def test_facts_share_requests_between_models(tmp_path: Path, settings: Settings) -> None:
    here = look(tmp_path, settings)
    known = world.facts(here, build=True)
    one, other = known.tasks.values()
    assert one is other
    assert one.planned.key == here.loaded.evals[0].key
    assert set(known.environments) == {"tf5"}
    assert set(known.code) == {("full-kv", "tf5")}
    assert (known.device, known.engine) == ("cpu", "venv")


@pytest.mark.usefixtures("_venv")
def test_lengths_in_tokens_are_facts_of_each_model(tmp_path: Path, settings: Settings) -> None:
    here = look(tmp_path, settings, MANIFEST.replace("{words: [20]}", "{tokens: [200]}"))
    known = world.facts(here, build=True)
    assert [task.planned.key.rpartition(".")[2] for task in known.tasks.values()] == ["a", "b"]
    assert {task.covers for task in known.tasks.values()} == {None}, "nothing counts tokens while a plan is made"


@pytest.mark.usefixtures("_venv")
def test_a_plan_fetches_and_writes_nothing_into_runs(tmp_path: Path, settings: Settings) -> None:
    here = look(tmp_path, settings, fetch=False)
    made = world.make_plan(here, world.facts(here, build=True), RunFolder(settings.runs / "probe"), Options(run="probe"))
    assert [(cell.model, cell.status, cell.requests) for cell in made.cells] == [("a", "NEW", 5), ("b", "NEW", 5)]
    assert not settings.runs.exists()


@pytest.mark.usefixtures("_venv")
def test_the_device_is_part_of_an_environment_s_hash(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = world.facts(look(tmp_path, settings), build=False)
    monkeypatch.setattr(devices, "gpus", lambda: (devices.Gpu("GPU-1", "A100", None),))
    cuda = world.facts(look(tmp_path, settings), build=False)
    assert (cpu.device, cuda.device) == ("cpu", "cuda")
    assert cpu.environments != cuda.environments


@pytest.mark.usefixtures("_venv")
def test_a_prompt_that_a_model_cannot_hold_is_refused(tmp_path: Path, settings: Settings) -> None:
    look(tmp_path, settings)  # now the models are here and tell their windows
    with pytest.raises(ManifestError, match="do not fit the 2048 positions of a"):
        look(tmp_path, settings, MANIFEST.replace("[20]", "[2000000]"))


@pytest.mark.parametrize(("image", "like", "chosen"), [(None, "tf5", "venv"), ("some/image", "tf5", "docker"), (None, "tf4.40", "docker")])
def test_auto_takes_the_engine_that_can_use_the_hosts_own_python(
    image: str | None, like: str, chosen: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: Settings
) -> None:
    offer(monkeypatch, venv=None, docker=None)
    record_system(like, image=image)
    (tmp_path / "m.yaml").write_text(MANIFEST)
    loaded = world.read(tmp_path / "m.yaml", settings)
    assert world.look(loaded, settings, "auto", print, fetch=False).engine.name == chosen
    if like == "tf5":  # which the manifest uses
        other = "docker" if chosen == "venv" else "venv"
        with pytest.raises(EngineUnavailable, match=rf"the engine {other} cannot use it\.\n.*--engine {chosen}"):
            world.look(loaded, settings, other, print, fetch=False)
