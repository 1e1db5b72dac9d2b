"""The packed storage by parameters: ``bits``, ``group`` and ``residual`` mean the same in every method that has them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from .evicting import Holder
from .quantise import Scheme
from .storage.dense import DenseStorage
from .storage.packed import PackedStorage

NAMES = frozenset({"bits", "group", "residual"})


def kivi(bits: int, group: int = 32, residual: int = 128) -> Holder:
    """Make storages as KIVI packs: keys in groups along tokens, values along channels. Raises ValueError for what does not fit."""
    return partial(
        PackedStorage,
        keys=Scheme(bits=bits, group=group, along="tokens", residual=residual),
        values=Scheme(bits=bits, group=group, along="channels", residual=residual),
    )


def per_token(bits: int, group: int) -> Holder:
    """Make storages that pack keys and values of each token in groups along channels; only the newest token is not packed."""
    scheme = Scheme(bits=bits, group=group, along="channels", residual=0)
    return partial(PackedStorage, keys=scheme, values=scheme)


def holder_of(method: str, params: Mapping[str, Any]) -> Holder:
    """Return what holds a selection: packed as KIVI packs where ``bits`` is given, else in the model's precision.

    Raises ValueError, naming the method, for parameters that do not fit.
    """
    given = {name: params[name] for name in NAMES if params.get(name) is not None}
    if "bits" not in given:
        if given:
            raise ValueError(f"{method}: {' and '.join(sorted(given))} say how entries are packed; give bits too")
        return DenseStorage
    try:
        return kivi(**given)
    except ValueError as error:
        raise ValueError(f"{method}: {error}") from error
