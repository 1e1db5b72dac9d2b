"""The code that runs inside: its hash (what a result depends on) and its staged copy (what an engine mounts)."""

import ast
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from .contracts.manifest import MethodEnvironment
from .errors import ManifestError
from .store import storage_errors

PACKAGE = Path(__file__).resolve().parent.parent
RUNNER = PACKAGE / "images" / "runner"
METHODS = PACKAGE / "methods"


def _files(folder: Path) -> list[Path]:
    """Python files of a folder that decide what it does: no tests, no caches."""
    return sorted(
        path
        for path in folder.rglob("*.py")
        if not {"tests", "__pycache__"} & set(path.relative_to(folder).parts[:-1]) and path.name != "estimate.py"
    )


@lru_cache(maxsize=256)
def _folder_digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in _files(folder):
        total.update(path.relative_to(folder).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def folders(environment: MethodEnvironment, method: Path) -> dict[str, Path]:
    """Return the method folders, by their name below ``methods/``, that one method needs in one environment.

    The entry's and the policy's module name the first: ``methods.kv.family`` lies in ``methods/kv``; what their code imports from
    ``methods`` follows. The method's own folder may lie anywhere; all others are longctx's own. Raises ManifestError where a folder
    does not exist.
    """
    found: dict[str, Path] = {}
    wanted = []
    for dotted in filter(None, (environment.entry, environment.policy)):
        parts = dotted.partition(":")[0].split(".")
        if len(parts) < 3 or parts[0] != "methods":
            raise ManifestError(f"{method / 'method.yaml'}: '{dotted}' must be 'methods.<folder>.<module>:<attribute>'.")
        wanted.append((parts[1], dotted))
    while wanted:
        name, why = wanted.pop()
        if name not in found:
            folder = method if name == method.name else METHODS / name
            if not folder.is_dir():
                raise ManifestError(f"{method / 'method.yaml'}: '{why}' names a folder that does not exist: {name}.")
            found[name] = folder.resolve()
            wanted += [(other, f"methods.{other}") for other in _imported(found[name])]
    return found


@lru_cache(maxsize=256)
def _imported(folder: Path) -> tuple[str, ...]:
    """Return the folders below ``methods/`` that a folder's code imports from. Raises ManifestError for code that cannot be parsed."""
    names = set()
    for path in _files(folder):
        here = ("methods", folder.name, *path.relative_to(folder).parent.parts)
        try:
            tree = ast.parse(path.read_bytes(), str(path))
        except (SyntaxError, ValueError) as error:
            raise ManifestError(f"{path}: {error}", "Mend the method's code.") from error
        for node in ast.walk(tree):
            modules: list[str] = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                top = ".".join([*here[: len(here) - node.level + 1], *filter(None, [node.module])]) if node.level else str(node.module)
                modules = [f"{top}.{alias.name}" for alias in node.names]
            names |= {module.split(".")[1] for module in modules if module.startswith("methods.")}
    return tuple(sorted(names - {folder.name, "*"}))


def code_digest(needed: Mapping[str, Path], runner: Path | None = None) -> str:
    """Return the hash of the runner and of the named method folders, each read once a process."""
    total = hashlib.sha256(_folder_digest((runner or RUNNER).resolve()).encode())
    for name, folder in sorted(needed.items()):
        total.update(f"{name}\0{_folder_digest(folder)}".encode())
    return total.hexdigest()


def runner_digest() -> str:
    """Return the hash of the runner alone, which token ids depend on."""
    return code_digest({})


def staged_name(needed: Mapping[str, Path]) -> str:
    """Return the name of the folder that :func:`stage` makes."""
    return code_digest(needed)[:24]


def stage(cache: Path, needed: Mapping[str, Path]) -> Path:
    """Return a folder holding ``runner/`` and ``methods/<name>/``, named by the hash of its content; made once, then only found."""
    target = cache / "code" / staged_name(needed)
    if target.is_dir():
        return target
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".staging-"))
        try:
            _copy(RUNNER, temporary / "runner")
            for name, folder in needed.items():
                _copy(folder, temporary / "methods" / name)
            (temporary / "methods").mkdir(exist_ok=True)
            copied = code_digest({name: temporary / "methods" / name for name in needed}, runner=temporary / "runner")
            if copied != code_digest(needed):
                raise ManifestError("The code of a method or of the runner changed while it was copied.", "Run the same command again.")
            for path in [temporary, *temporary.rglob("*")]:
                path.chmod(0o755 if path.is_dir() else 0o644)
            os.rename(temporary, target)  # noqa: PTH104
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if not isinstance(error, OSError) or not target.is_dir():  # else another process was first: its copy is the same
                raise
    return target


def _copy(folder: Path, target: Path) -> None:
    for path in _files(folder):
        destination = target / path.relative_to(folder)
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, destination)


def union(parts: Iterable[Mapping[str, Path]]) -> dict[str, Path]:
    """Merge folder maps. Raises ManifestError when one name means two folders."""
    merged: dict[str, Path] = {}
    for part in parts:
        for name, folder in part.items():
            if merged.setdefault(name, folder) != folder:
                raise ManifestError(f"Two methods use the folder name '{name}': {merged[name]} and {folder}.", "Rename one of them.")
    return merged
