"""Counts the bytes that a cache occupies on the device, by walking everything reachable from it and asking the allocator.

CPU: every storage reachable from the roots (torch, numpy, bytearray, array), each once and whole: a slice that keeps a large storage
alive costs all of it.
CUDA: what the allocator has given out since ``before_cache``; the walk only says which part is what, and what it does not find
(buffers held out of its sight) counts as state. Storages are rounded up to the allocator's 512 bytes, so that parts and total agree.

The walk enters instance dictionaries, slots, lists, tuples, dicts, sets and deques. It passes by modules, functions, methods, classes
and ``nn.Module``s: a cache may point at its model without being charged for it. Where a tensor is a wrapper (quantised subclasses,
sparse layouts) the tensors inside it count.
"""

from __future__ import annotations

import array
import sys
import types
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from .device import Device
from .protocol import Holding

PARTS = ("dense", "codes", "scales", "index", "state")
BLOCK = 512
"""Bytes to which torch's CUDA allocator rounds every block up."""

_PLAIN = (str, bytes, int, float, complex, bool, type(None), range)
_PASSED_BY = (
    type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.GeneratorType,
    types.CodeType, types.FrameType, weakref.ReferenceType, weakref.ProxyType, weakref.CallableProxyType,
)  # fmt: skip

Key = tuple[str, int]
"""Which memory, and where in it."""


def device_bytes(holding: Holding, device: Device, base: int | None, members: int) -> dict[str, int]:
    """Return bytes by part for one request of a batch.

    ``base`` is ``device.allocated()`` from before the cache existed. A batch of ``members`` shares one cache: each request is charged the
    integer quotient of every part. Raises ValueError for a part that is none of ``PARTS``.
    """
    unknown = sorted(set(holding.parts) - set(PARTS))
    if unknown:
        raise ValueError(f"Holding.parts names {', '.join(unknown)}; parts are {', '.join(PARTS)}")
    sizes = dict.fromkeys(PARTS, 0)
    counted: set[Key] = set()
    for part, items in [(part, holding.parts.get(part, ())) for part in PARTS] + [("state", holding.roots)]:
        for key, size in storages(items, device.kind):
            if key not in counted:
                counted.add(key)
                sizes[part] += size if device.kind == "cpu" else -(-size // BLOCK) * BLOCK
    if base is not None:
        device.synchronise()
        allocated = device.allocated()
        if allocated is not None:
            sizes["state"] += max(0, allocated - base - sum(sizes.values()))
    return {part: size // members for part, size in sizes.items()}


def storages(roots: Iterable[Any], kind: str) -> Iterator[tuple[Key, int]]:
    """Yield ``(key, bytes)`` of every storage on the device that is reachable from the roots; a shared one more than once."""
    torch = sys.modules.get("torch")
    numpy = sys.modules.get("numpy")
    tensors: Any = torch.Tensor if torch is not None else ()
    modules: Any = torch.nn.Module if torch is not None else ()
    arrays: Any = numpy.ndarray if numpy is not None else ()
    seen: dict[int, Any] = {}  # keeps every object alive: an identity is only unique among the living
    stack: list[Any] = [roots if isinstance(roots, (list, tuple)) else list(roots)]
    while stack:
        item = stack.pop()
        if isinstance(item, (_PLAIN, _PASSED_BY, modules)) or id(item) in seen:
            continue
        seen[id(item)] = item
        if isinstance(item, tensors):
            inner = _inner(item)
            stack.extend(inner)
            stack.extend(vars(item).values())
            address, size = _storage(item) if not inner and item.device.type == kind else (0, 0)
            if address and size:
                yield (str(item.device), address), size
            continue
        if kind == "cpu" and isinstance(item, (bytearray, array.array)):
            yield ("buffer", id(item)), len(item) * getattr(item, "itemsize", 1)
        elif kind == "cpu" and isinstance(item, arrays):
            while isinstance(item.base, arrays):
                item = item.base
            if isinstance(item.base, (bytearray, array.array, tensors)):
                stack.append(item.base)
            elif item.nbytes:
                yield ("cpu", item.__array_interface__["data"][0]), item.nbytes
        stack.extend(_children(item))


def _inner(tensor: Any) -> list[Any]:
    """Return the tensors that hold the data of one that has no storage of its own: wrapper subclasses and sparse layouts."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return [getattr(tensor, name) for name in names]
    layout = str(tensor.layout)
    if layout == "torch.sparse_coo":
        return [tensor._indices(), tensor._values()]
    if layout in ("torch.sparse_csr", "torch.sparse_bsr"):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if layout in ("torch.sparse_csc", "torch.sparse_bsc"):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return []


def _storage(tensor: Any) -> tuple[int, int]:
    """Return address and bytes of a tensor's storage; ``(0, 0)`` for a wrapper, which has none (its attributes are walked)."""
    storage = tensor.untyped_storage()
    try:
        return int(storage.data_ptr()), int(storage.nbytes())
    except RuntimeError:
        return 0, 0


def _children(item: Any) -> Iterator[Any]:
    if isinstance(item, dict):
        yield from item.keys()
        yield from item.values()
    elif isinstance(item, (list, tuple, set, frozenset, deque)):
        yield from item
    attributes = getattr(item, "__dict__", None)
    if isinstance(attributes, dict):
        yield from attributes.values()
    for kind in type(item).__mro__:
        for slot in vars(kind).values():
            if isinstance(slot, types.MemberDescriptorType):
                try:
                    yield slot.__get__(item, type(item))
                except AttributeError:  # a slot that was never set
                    continue
