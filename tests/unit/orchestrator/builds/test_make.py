"""What is there is found, what is not is made once, and what cannot be had is told."""

import dataclasses
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from unit.orchestrator.builds.fakes import BASE, Workshop, environment_at

from longctx.orchestrator.builds.make import Image, Maker
from longctx.orchestrator.builds.recipe import LABEL, environment_tag, python_tag
from longctx.orchestrator.errors import EnvironmentFailed, StorageError


def make(workshop: Workshop) -> None:
    workshop.maker.make([(workshop.environment, "cpu")], workshop.said.append)


def with_settings(workshop: Workshop, **more: object) -> Maker:
    return dataclasses.replace(workshop.maker, settings=workshop.maker.settings.model_copy(update=more))


def test_python_first_then_the_environment_and_nothing_the_second_time(workshop: Workshop) -> None:
    base = workshop.base()
    make(workshop)
    assert [[recipe.stage for recipe in one] for one in workshop.built] == [["python"], ["environment"]]
    recipe = workshop.built[1][0]
    assert recipe.tag == environment_tag(workshop.environment, "cpu", BASE)
    assert recipe.labels[f"{LABEL}.base-id"] == base
    assert recipe.arguments["IMPORTS"] == "six"
    assert "torch==2.13.0" in recipe.arguments["TORCH"]
    assert (Path(recipe.contexts["tools"]) / "uv").stat().st_mode & 0o111
    assert list(Path(recipe.contexts["wheels"]).iterdir()) == []
    make(workshop)
    assert len(workshop.built) == 2


def test_several_environments_are_built_at_once(workshop: Workshop, tmp_path: Path) -> None:
    workshop.base()
    other = environment_at(tmp_path / "images" / "other")
    workshop.maker.make([(workshop.environment, "cpu"), (other, "cpu"), (workshop.environment, "cuda")], print)
    assert [len(one) for one in workshop.built] == [1, 3]


def test_what_is_found_says_what_is_inside(workshop: Workshop) -> None:
    workshop.base()
    assert workshop.maker.find(workshop.environment, "cpu") is None
    make(workshop)
    found = workshop.maker.find(workshop.environment, "cpu")
    assert found is not None
    assert (found[1].packages, found[1].engine, found[1].image) == ({"six": "1"}, "docker", found[0].id)
    before = list(workshop.api.calls)
    assert workshop.maker.find(workshop.environment, "cpu") == found
    asked = [call for call in workshop.api.calls[len(before) :] if not call.startswith("inspect")]
    assert asked == [], "the record is read from the image once"


def test_another_base_of_the_same_name_builds_anew(workshop: Workshop) -> None:
    workshop.base()
    make(workshop)
    workshop.api.add(BASE, id_="sha256:moved")
    assert workshop.maker.find(workshop.environment, "cpu") is None
    make(workshop)
    assert [[recipe.stage for recipe in one] for one in workshop.built] == [["python"], ["environment"]] * 2


def test_a_base_that_is_gone_is_no_reason_to_build(workshop: Workshop) -> None:
    workshop.base()
    make(workshop)
    del workshop.api.images[BASE]
    make(workshop)
    assert len(workshop.built) == 2


def test_a_base_that_cannot_be_pulled(workshop: Workshop) -> None:
    with pytest.raises(EnvironmentFailed, match=f"{BASE} cannot be pulled: no such host") as raised:
        make(workshop)
    assert "LONGCTX_BASE_CPU" in raised.value.next_step
    assert workshop.built == []


def test_a_base_that_does_not_arrive(workshop: Workshop) -> None:
    workshop.api.pulled = []
    with pytest.raises(EnvironmentFailed, match="it did not arrive"):
        make(workshop)


def test_offline_pulls_nothing(workshop: Workshop) -> None:
    with pytest.raises(EnvironmentFailed, match="`offline` is set"):
        with_settings(workshop, offline=True).make([(workshop.environment, "cpu")], print)
    assert f"pull {BASE}" not in workshop.api.calls


def test_a_python_that_the_environment_does_not_take(workshop: Workshop) -> None:
    workshop.base()
    workshop.api.python = "3.8"
    with pytest.raises(EnvironmentFailed, match=r"a-base:1 has Python 3\.8; environment small takes 3\.11"):
        make(workshop)
    assert workshop.built[-1][0].tag == python_tag(BASE)


def test_a_device_that_the_environment_is_not_made_for(workshop: Workshop, tmp_path: Path) -> None:
    only = environment_at(tmp_path / "images" / "only", torch={"cpu": "2.13.0"})
    with pytest.raises(EnvironmentFailed, match="only is not made for cuda"):
        workshop.maker.make([(only, "cuda")], print)


def test_torchs_index_is_no_argument(workshop: Workshop) -> None:
    workshop.base()
    maker = with_settings(workshop, torch_index="https://me:word@torch/simple")
    maker.make([(workshop.environment, "cpu")], print)
    assert workshop.built[-1][0].arguments["TORCH"] == "from-index --no-deps torch==2.13.0"


@pytest.mark.parametrize(
    ("device", "wheel", "nvcc", "expected"),
    [("cpu", True, True, "none"), ("cuda", True, True, "wheel"), ("cuda", False, True, "compiled"), ("cuda", False, False, "none")],
)
def test_flash_attention(workshop: Workshop, tmp_path: Path, device: str, wheel: bool, nvcc: bool, expected: str) -> None:
    environment = environment_at(tmp_path / "images" / "flash", flash_attn="2.8.3")
    if wheel:
        (tmp_path / "house").mkdir()
        (tmp_path / "house" / "flash_attn-2.8.3+cu13-cp311-cp311-linux_x86_64.whl").touch()
    maker = with_settings(workshop, wheelhouse=tmp_path / "house", flash_builder="nvcc:1" if nvcc else None)
    assert maker.flash(environment, "cuda" if device == "cuda" else "cpu") == expected


def test_a_full_disk_is_told_before_anything_is_built(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop.base()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(0, 0, 2**30))
    with pytest.raises(StorageError, match=r"1\.0 GiB are free, and building this takes up to 4 GiB"):
        make(workshop)
    assert workshop.built == []


def test_a_familys_image_is_built_once_for_the_same_code(workshop: Workshop, tmp_path: Path) -> None:
    image = Image(tag="longctx/small:cpu-1", id="sha256:7", labels={})

    def family(code: str) -> Image:
        return workshop.maker.family(image, "small", "kv", "cpu", tmp_path / code)

    first = family("code1")
    assert family("code1") == first
    assert len(workshop.thin) == 1
    assert first.labels[f"{LABEL}.family"] == "kv"
    assert family("code2").tag != first.tag
    assert [one[1:] for one in workshop.thin] == [(image.tag, tmp_path / "code1"), (image.tag, tmp_path / "code2")]


def test_builders_take_turns(workshop: Workshop) -> None:
    import threading

    workshop.base()
    with workshop.maker.alone(print):
        second = threading.Thread(target=make, args=(workshop,))
        second.start()
        while not workshop.said:
            assert second.is_alive()
        assert (workshop.said, workshop.built) == (["another process is building images; waiting"], [])
    second.join()
    assert len(workshop.built) == 2
