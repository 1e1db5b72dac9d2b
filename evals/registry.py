"""Every eval by name: those of this folder, those in folders named by $LONGCTX_PATH, and those of installed packages.

Outside the repository an eval is a folder ``<dir>/evals/<name>/`` with <dir> in $LONGCTX_PATH, whose ``__init__.py`` has an object
``EVAL``, or an entry point of the group ``longctx.evals`` that names such an object. Nothing is imported before it is asked for.
"""

import difflib
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import cast

from .base import Eval

BUILT_IN = {
    "longbench": ".longbench",
    "passkey": ".passkey",
    "passkey-2024": ".passkey_2024",
    "prompt": ".prompt",
    "ruler": ".ruler",
}
"""Name to module, relative to this package; the module has an object ``EVAL``."""

MEMBERS = ("name", "tasks", "metric", "axes", "summary", "normalise", "needs_tokenizer", "size", "build", "score", "code")


def names() -> tuple[str, ...]:
    """Return the names of all evals that can be found, sorted."""
    return tuple(sorted(_loaders()))


def get(name: str) -> Eval:
    """Return one eval. Raises LookupError with the nearest spelling, ImportError if an outside eval cannot be loaded."""
    loaders = _loaders()
    if name not in loaders:
        raise LookupError(f"no eval is called {name!r}{_nearest(name, loaders)}")
    return loaders[name]()


def tasks() -> tuple[str, ...]:
    """Return every task of every eval as ``eval/task``, sorted. Imports all evals."""
    return tuple(sorted(f"{name}/{task}" for name, load in _loaders().items() for task in load().tasks))


def resolve(task: str) -> tuple[Eval, str]:
    """Take ``eval/task`` apart. Raises LookupError with the nearest spelling if the eval or its task does not exist."""
    name, _, part = task.partition("/")
    found = get(name)
    if part not in found.tasks:
        raise LookupError(f"the eval {name!r} has no task {part!r}{_nearest(part, found.tasks)}")
    return found, part


def _nearest(name: str, known: Mapping[str, object] | tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(sorted(known))}"


def _loaders() -> dict[str, Callable[[], Eval]]:
    """Return a loader for each name. Raises LookupError if two evals claim one name."""
    found: dict[str, tuple[str, Callable[[], Eval]]] = {
        name: ("longctx itself", partial(_from_module, name, module)) for name, module in BUILT_IN.items()
    }

    def add(name: str, where: str, load: Callable[[], Eval]) -> None:
        if name in found:
            raise LookupError(f"the eval {name!r} exists twice: in {found[name][0]} and in {where}; rename one of them")
        found[name] = (where, load)

    for start in os.environ.get("LONGCTX_PATH", "").split(os.pathsep):
        # An empty entry would mean the working folder; nobody who leaves the variable empty asks for that.
        for init in sorted(Path(start).expanduser().glob("evals/*/__init__.py")) if start else ():
            add(init.parent.name, str(init.parent), partial(_from_folder, init.parent))
    for entry in entry_points(group="longctx.evals"):
        add(entry.name, f"the installed package's entry point {entry.value}", partial(_checked, entry.name, entry.value, entry.load))
    return {name: load for name, (_, load) in found.items()}


def _from_module(name: str, module: str) -> Eval:
    return _checked(name, module, lambda: importlib.import_module(module, __package__).EVAL)


def _from_folder(folder: Path) -> Eval:
    # The path is part of the module's name, so that two folders of one name never get each other's modules.
    module_name = f"longctx_evals_{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]}"

    def load() -> object:
        if module_name in sys.modules:
            return sys.modules[module_name].EVAL
        spec = importlib.util.spec_from_file_location(module_name, folder / "__init__.py", submodule_search_locations=[str(folder)])
        if spec is None or spec.loader is None:
            raise ImportError(f"Python finds no loader for {folder / '__init__.py'}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
            return module.EVAL
        except BaseException:
            del sys.modules[module_name]
            raise

    return _checked(folder.name, str(folder), load)


def _checked(name: str, where: str, load: Callable[[], object]) -> Eval:
    """Load and look whether it is an eval; whatever goes wrong in foreign code becomes one ImportError that names the place."""
    try:
        found = load()
    except Exception as error:
        raise ImportError(f"the eval {name!r} in {where} cannot be loaded: {type(error).__name__}: {error}") from error
    missing = [member for member in MEMBERS if not hasattr(found, member)]
    if missing:
        raise ImportError(f"the eval {name!r} in {where} lacks {', '.join(missing)}; evals/base.py says what each is")
    if found.name != name:  # type: ignore[attr-defined]
        raise ImportError(f"the eval in {where} calls itself {found.name!r} but is found as {name!r}; both must agree")  # type: ignore[attr-defined]
    return cast("Eval", found)
