"""``longctx config system``: records the host's own Python, so that it stands in for an environment that cannot be made there."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import environments
from .contracts.job import DeviceKind
from .contracts.manifest import EnvironmentSpec, SystemSpec
from .engines.host import Held, ImportFailed, Run, ask, direct, pins
from .environments import FILE, SYSTEM, Environment
from .errors import EnvironmentFailed, StorageError, UsageError
from .store import write

VARIABLES = ("LD_LIBRARY_PATH", "PYTHONPATH", "EBPYTHONPREFIXES", "CUDA_HOME")
"""What module systems set to make a Python work; recorded, for a job starts without the caller's variables. All are paths."""
OWN = Path(__file__).parents[2]
"""Where longctx itself is imported from."""
OPTIONAL = {
    "sentencepiece": "models whose tokenizer is a SentencePiece model cannot be used",
    "google.protobuf": "models whose tokenizer is a SentencePiece model may fail to load",
    "jinja2": "chat templates cannot be used",
}
"""What an environment imports and most models do without, with what is lost."""
LOCK = "requirements.lock"


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What was recorded and where; ``notes`` are for a person, a line each."""

    spec: EnvironmentSpec
    folder: Path
    packages: Mapping[str, str]
    notes: tuple[str, ...]


def find_python(named: str | None) -> str:
    """Return the absolute path of the Python that a person means: ``named``, or the first ``python3`` on $PATH. Raises UsageError.

    A link is kept as it is: a virtual environment's interpreter is one.
    """
    found = shutil.which(Path(named or "python3").expanduser())
    if found is None:
        raise UsageError(
            f"--python {named}: there is no such program." if named else "There is no python3 on $PATH.",
            "Name the Python that has torch and transformers: longctx config system --python PATH.",
        )
    return str(Path(found).absolute())


def carried(caller: Mapping[str, str]) -> dict[str, str]:
    """Return the caller's variables that the recorded Python is always started with: absolute, and without longctx's own place."""
    found = {}
    for name in VARIABLES:
        parts = [Path(part).expanduser().absolute() for part in caller.get(name, "").split(os.pathsep) if part]
        if kept := [str(part) for part in parts if part.resolve() != OWN.resolve()]:
            found[name] = os.pathsep.join(kept)
    return found


def record(
    like: str, python: str, *, run: Run | None = None, variables: Mapping[str, str] | None = None, image: str | None = None,
    mounts: tuple[str, ...] = (),
) -> Recorded:  # fmt: skip
    """Ask ``python`` what it holds and write that down as the environment ``system``, in place of ``like``.

    ``run`` reaches that Python: directly when absent, else in ``image``. Raises UsageError for an unknown ``like``, EnvironmentFailed where
    the Python lacks what is needed, StorageError.
    """
    known = tuple(name for name in environments.environment_names() if name != SYSTEM)
    if like not in known:
        raise UsageError(f"--like {like}: no environment is called so.", f"It may be: {', '.join(known)}.")
    stood_for = environments.find_environment(like)
    variables = dict(variables or {})
    held, imports, notes = _look(run or direct(variables), python, stood_for)
    spec = _spec(held, imports, SystemSpec(
        like=like, python=python, image=image, mounts=mounts, variables=variables, torch_record_sha256=held.torch_record_sha256
    ))  # fmt: skip
    folder = environments.own_place() / SYSTEM
    _write(folder, spec, held)
    notes += _version_notes(stood_for, held, known)
    if variables:
        notes.append(f"recorded from this shell, too: {', '.join(f'${name}' for name in variables)}")
    return Recorded(spec=spec, folder=folder, packages=held.packages, notes=tuple(notes))


def forget() -> Path | None:
    """Remove the recorded environment; return where it was, or None if there was none. Raises StorageError."""
    folder = environments.own_place() / SYSTEM
    if not folder.exists():
        return None
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise StorageError(f"{error.filename or folder}: {error.strerror}.", "Check who owns it, then try again.") from error
    return folder


def _look(run: Run, python: str, stood_for: Environment) -> tuple[Held, tuple[str, ...], list[str]]:
    """Return what the Python holds, which modules it imports of those that the other environment must have, and what it lacks."""
    imports, notes = list(stood_for.spec.imports), list[str]()
    for name in [name for name in imports if name in OPTIONAL]:  # each alone, which is quick: torch is imported once, with the rest
        try:
            ask(run, python, [name])
        except ImportFailed:
            notes.append(f"{name} does not import: {OPTIONAL[name]}")
            imports.remove(name)
    held = ask(run, python, imports)
    if tuple(map(int, held.python.split(".")[:2])) < (3, 9):
        raise EnvironmentFailed(f"{python} is Python {held.python}; jobs need 3.9 or newer.", "Name another: --python PATH.")
    for name in ("torch", "transformers"):
        if name in imports and name not in held.packages:
            raise EnvironmentFailed(
                f"{python}: {name} imports, but no installed package of that name says its version.", "Install it with its metadata."
            )
    return held, tuple(imports), notes


def _spec(held: Held, imports: tuple[str, ...], system: SystemSpec) -> EnvironmentSpec:
    torch = held.packages.get("torch", "none")
    devices: dict[DeviceKind, str] = {"cpu": torch, "cuda": torch} if held.torch_cuda is not None else {"cpu": torch}
    place = f"in {system.image}" if system.image else "of this host"
    return EnvironmentSpec(
        name=SYSTEM, python=(".".join(held.python.split(".")[:2]),), torch=devices, lock=LOCK, imports=imports, system=system,
        summary=f"The Python {held.python} {place}, torch {torch}, transformers {held.packages.get('transformers', 'none')}: recorded.",
    )  # fmt: skip


def _write(folder: Path, spec: EnvironmentSpec, held: Held) -> None:
    import yaml

    head = "# Written by `longctx config system`: a record of what was found, nothing is installed from it.\n"
    lines = "".join(f"{name}=={version}\n" for name, version in sorted(held.packages.items()))
    text = yaml.safe_dump(spec.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)
    write(folder / LOCK, head + lines)
    write(folder / FILE, head + text)  # last: without it the folder is no environment


def _version_notes(stood_for: Environment, held: Held, known: tuple[str, ...]) -> list[str]:
    """Say where transformers is another than the one that methods of that environment were checked with."""
    found = held.packages.get("transformers")
    wanted = pins(stood_for.lock.read_text(encoding="utf-8")).get("transformers")
    if found is None or wanted is None or found.split(".")[:2] == wanted.split(".")[:2]:
        return []
    note = f"transformers is {found}, methods of {stood_for.spec.name} were checked with {wanted}: some may fail, or answer otherwise"
    for name in known:
        other = pins(environments.find_environment(name).lock.read_text(encoding="utf-8")).get("transformers", "")
        if other.split(".")[0] == found.split(".")[0] != wanted.split(".")[0]:
            return [f"{note}; --like {name} ({other}) is nearer"]
    return [note]
