"""Who may import whom. Read from the source, so that nothing is imported to find out.

``orchestrator → evals`` only through the registry, the protocol and the list of data · nothing on the host imports a framework or a
method · the runner is the standard library until it loads a method · a method imports the cache family's library, the runner's protocol
and its own folder.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FRAMEWORKS = frozenset({"torch", "transformers", "tokenizers", "triton", "flash_attn", "vllm", "accelerate", "datasets"})
STANDARD = frozenset(sys.stdlib_module_names)
PYTHON = (3, 9)
"""The oldest Python of an environment: code that runs inside is written for it."""


@dataclass(frozen=True)
class Import:
    """One imported module, absolute: relative ones are resolved against the top-level folders (``orchestrator.plan``)."""

    file: Path
    line: int
    module: str
    at_import: bool
    """It runs when the file is imported: not inside a function, and not only for type checkers."""

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.module}"


def sources(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


def imports(path: Path, package: tuple[str, ...]) -> Iterator[Import]:
    """Yield a file's imports; ``package`` is the dotted place of its folder."""
    yield from _walk(ast.parse(path.read_text(encoding="utf-8"), str(path)), path, package, True)


def _walk(node: ast.AST, path: Path, package: tuple[str, ...], at_import: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        inside = at_import and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            inside = False
        if isinstance(child, ast.Import):
            for name in child.names:
                yield Import(path, child.lineno, name.name, at_import)
        elif isinstance(child, ast.ImportFrom):
            base = package[: len(package) - child.level + 1] if child.level else ()
            start = ".".join([*base, *([child.module] if child.module else [])])
            for name in child.names:
                yield Import(path, child.lineno, f"{start}.{name.name}" if start else name.name, at_import)
        yield from _walk(child, path, package, inside)


def found(folder: str, inside: str = "") -> list[Import]:
    """Return all imports below a folder. ``inside`` is a folder that is no package where the code runs (``images``)."""
    result = []
    for path in sources(folder):
        parts = path.relative_to(ROOT / inside).parent.parts
        result += list(imports(path, ("longctx", *parts) if not inside and folder in HOST else parts))
    return result


HOST = ("orchestrator", "evals")
"""Folders that are imported as ``longctx.…``; methods and the runner are packages of their own where they run."""


def told(wrong: list[Import]) -> str:
    return "\n".join(str(each) for each in wrong)


def starts(module: str, *allowed: str) -> bool:
    return any(module == each or module.startswith(f"{each}.") for each in allowed)


def test_the_walk_sees_what_there_is() -> None:
    all_found = found("orchestrator")
    assert any(starts(each.module, "longctx.orchestrator.contracts.plan") for each in all_found)
    assert any(starts(each.module, "longctx.evals.registry") for each in all_found)
    assert any(starts(each.module, "pydantic") for each in all_found)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import a.b\n", [("a.b", True)]),
        ("from . import b\n", [("longctx.x.y.b", True)]),
        ("from ..z import c, d\n", [("longctx.x.z.c", True), ("longctx.x.z.d", True)]),
        ("from ...evals import registry\n", [("longctx.evals.registry", True)]),
        ("def f():\n    import torch\n", [("torch", False)]),
        ("if TYPE_CHECKING:\n    import torch\nelse:\n    pass\n", [("torch", False)]),
        ("class A:\n    try:\n        import torch\n    except ImportError:\n        pass\n", [("torch", True)]),
    ],
)
def test_the_walk_understands(code: str, expected: list[tuple[str, bool]], tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text(code)
    assert [(each.module, each.at_import) for each in imports(path, ("longctx", "x", "y"))] == expected


def test_the_orchestrator_knows_no_framework_and_no_method() -> None:
    wrong = [
        each for each in found("orchestrator") if each.top in FRAMEWORKS or starts(each.module, "longctx.methods", "methods", "runner")
    ]
    wrong += [each for each in found("orchestrator") if starts(each.module, "longctx.images")]
    assert not wrong, told(wrong)


def test_the_orchestrator_sees_evals_through_the_registry_the_protocol_and_the_list_of_data() -> None:
    allowed = tuple(f"longctx.evals.{name}" for name in ("registry", "base", "data", "sources"))
    wrong = [each for each in found("orchestrator") if starts(each.module, "longctx.evals") and not starts(each.module, *allowed)]
    assert not wrong, told(wrong)


def test_the_contracts_import_nothing_of_the_rest() -> None:
    wrong = [
        each for each in found("orchestrator")
        if each.file.parent.name == "contracts" and each.top == "longctx" and not starts(each.module, "longctx.orchestrator.contracts")
    ]  # fmt: skip
    assert not wrong, told(wrong)


def test_evals_know_no_model_and_no_host() -> None:
    wrong = [
        each for each in found("evals")
        if each.top in FRAMEWORKS | {"methods", "runner"} or (each.top == "longctx" and not starts(each.module, "longctx.evals"))
    ]  # fmt: skip
    assert not wrong, told(wrong)


def test_the_runner_is_the_standard_library_at_import() -> None:
    assert sources("images/runner")
    wrong = [each for each in found("images/runner", inside="images") if each.at_import and each.top not in STANDARD | {"runner"}]
    wrong += [each for each in found("images/runner", inside="images") if starts(each.module, "longctx", "methods")]
    assert not wrong, told(wrong)


def test_methods_import_their_library_the_protocol_and_themselves() -> None:
    wrong = []
    for each in found("methods"):
        own = each.file.relative_to(ROOT / "methods").parts[0]
        allowed = ("methods.kv", f"methods.{own}", "runner.protocol", "torch", "transformers", *(("triton",) if own == "kv" else ()))
        if each.file.stem != "estimate" and each.top not in STANDARD and not starts(each.module, *allowed):
            wrong.append(each)
    assert sources("methods")
    assert not wrong, told(wrong)


def test_estimates_are_the_standard_library() -> None:
    """They run on the host, in the plan; what they have in common lies in one file that is such itself."""
    files = [path for path in sources("methods") if path.stem == "estimate"]
    assert files
    found = [each for path in files for each in imports(path, ("methods", path.parent.name))]
    wrong = [each for each in found if each.top not in STANDARD and not starts(each.module, "longctx.methods.kv.estimate")]
    assert not wrong, told(wrong)


@pytest.mark.parametrize("folder", ["images/runner", "methods"])
def test_code_that_runs_inside_is_written_for_the_oldest_python(folder: str) -> None:
    for path in sources(folder):
        text = path.read_text(encoding="utf-8")
        ast.parse(text, str(path), feature_version=PYTHON)
        unions = [node.lineno for node in ast.walk(ast.parse(text)) if _is_union_of_types(node)]
        place = f"{path.relative_to(ROOT)}:{unions[0] if unions else 0}"
        assert not unions or "from __future__ import annotations" in text, f"{place}: X | Y needs `from __future__ import annotations`"


def _is_union_of_types(node: ast.AST) -> bool:
    annotation = getattr(node, "annotation", None) or getattr(node, "returns", None)
    return annotation is not None and any(isinstance(part, ast.BinOp) and isinstance(part.op, ast.BitOr) for part in ast.walk(annotation))
