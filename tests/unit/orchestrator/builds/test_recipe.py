"""Names change with what decides an image's content, and with nothing else."""

import re
from pathlib import Path

import pytest
from unit.orchestrator.builds.fakes import environment_at

from longctx.orchestrator.builds import recipe

NAME = re.compile(r"longctx/[a-z0-9]+(?:(?:\.|_|-)[a-z0-9]+)*:[\w.-]+")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies of what images are made of, to be changed."""
    for name in ("DOCKERFILE", "INSTALL", "INSIDE"):
        original: Path = getattr(recipe, name)
        (tmp_path / name).write_text(original.read_text())
        monkeypatch.setattr(recipe, name, tmp_path / name)
    return tmp_path


def names(tmp_path: Path, *, base: str = "b", flash: str = "none", **more: object) -> dict[str, str]:
    environment = environment_at(tmp_path / "tf5", **more)
    return {
        "python": recipe.python_tag(base),
        "environment": recipe.environment_tag(environment, "cpu", base, flash),
        "family": recipe.family_tag("tf5", "kv", "cpu", "sha256:1", "code"),
    }


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {key for key in before if before[key] != after[key]}


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("DOCKERFILE", "# The thin layers", "# Anything else", set()),
        ("DOCKERFILE", "FROM ${BASE} AS python\n", "FROM ${BASE} AS python\n# a comment\n\n", set()),
        ("DOCKERFILE", "gcc libc6-dev", "clang libc6-dev", {"python", "environment"}),
        ("DOCKERFILE", "LANG=C.UTF-8", "LANG=C", {"environment"}),
        ("DOCKERFILE", "/longctx/code/methods", "/longctx/code/others", {"family"}),
        ("INSTALL", "--require-hashes", "", {"environment"}),
        ("INSIDE", "import", "import ", {"environment"}),
    ],
)
def test_files(files: Path, file: str, old: str, new: str, expected: set[str]) -> None:
    before = names(files)
    text = (files / file).read_text()
    assert old in text
    (files / file).write_text(text.replace(old, new, 1))
    assert changed(before, names(files)) == expected


def test_the_environment_the_base_and_flash_attention(tmp_path: Path) -> None:
    before = names(tmp_path)
    assert changed(before, names(tmp_path, summary="told otherwise")) == set()
    assert changed(before, names(tmp_path, imports=("six", "yaml"))) == {"environment"}
    assert changed(before, names(tmp_path, base="another")) == {"python", "environment"}
    assert changed(before, names(tmp_path, flash="wheel")) == {"environment"}
    assert names(tmp_path, flash="wheel") == names(tmp_path, flash="compiled"), "how it was fetched is no part of what is there"


def test_a_family_depends_on_the_image_below_and_on_the_code() -> None:
    one = recipe.family_tag("tf5", "kv", "cpu", "sha256:1", "code")
    assert one.startswith("longctx/tf5-kv:cpu-")
    assert (
        len({one, recipe.family_tag("tf5", "kv", "cpu", "sha256:2", "code"), recipe.family_tag("tf5", "kv", "cpu", "sha256:1", "other")})
        == 3
    )
    assert recipe.family_tag("tf5", None, "cpu", "sha256:1", "code").startswith("longctx/tf5-runner:cpu-")


@pytest.mark.parametrize("name", ["tf4.40", "My_Own+Env", "a..b", "x-", "A__b._c", "9"])
def test_names_are_ones_that_an_engine_takes(tmp_path: Path, name: str) -> None:
    environment = environment_at(tmp_path / name)
    assert NAME.fullmatch(recipe.environment_tag(environment, "cuda", "b"))
    assert NAME.fullmatch(recipe.family_tag(name, name, "cpu", "i", "c"))


def test_stages_are_read_without_comments() -> None:
    found = recipe.stages("ARG A\n# c\nFROM a AS one\n# c\nRUN x\n\nFROM one AS two-b\nCOPY y z\n")
    assert found == {"one": "FROM a AS one\nRUN x", "two-b": "FROM one AS two-b\nCOPY y z"}


def test_the_thin_stages_hold_nothing_that_the_classic_builder_cannot_read() -> None:
    text = recipe.thin_dockerfile("image:1")
    assert text.splitlines()[0] == "FROM image:1"
    assert all(line.startswith("COPY ") and "--" not in line for line in text.splitlines()[1:])
    assert [line.split()[1] for line in text.splitlines()[1:]] == ["runner", "methods"]
