"""What a family's image holds: the code of every method of the catalogue that runs in it, so that another manifest builds nothing new."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from .catalog import Catalog, Method
from .code import folders
from .contracts.manifest import MethodEnvironment
from .errors import ManifestError


def entries(method: Method, environment: str) -> tuple[MethodEnvironment, ...]:
    """Return what ``method.yaml`` says of an environment: one entry, or none."""
    return tuple(one for one in method.spec.environments if one.name == environment)


def family_name(method: Method, entry: MethodEnvironment) -> str:
    """Return a method's family; one that names none is a family of its own."""
    return entry.family or method.name


def members(catalog: Catalog, environment: str) -> dict[str, tuple[Method, ...]]:
    """Return the catalogue's methods in an environment by family, sorted."""
    found: dict[str, tuple[Method, ...]] = {}
    for method in map(catalog.get, catalog.names()):
        for entry in entries(method, environment):
            family = family_name(method, entry)
            found[family] = (*found.get(family, ()), method)
    return dict(sorted(found.items()))


def whole(methods: Iterable[Method], environment: str, own: Mapping[str, Path]) -> dict[str, Path]:
    """Return a family's method folders by name: those of ``own``, then what the family's ``methods`` add under other names.

    A method of the catalogue whose code cannot be read stops nothing here: whoever asks for it is told.
    """
    found = dict(own)
    for method in methods:
        for entry in entries(method, environment):
            try:
                parts = folders(entry, method.folder)
            except ManifestError:
                continue
            for name, folder in parts.items():
                found.setdefault(name, folder)
    return found
