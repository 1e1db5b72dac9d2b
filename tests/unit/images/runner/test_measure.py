"""Bytes of a cache: each storage once and whole, by part. With plain buffers here, with torch's tensors in ``inside_measure.py``."""

import array
from types import SimpleNamespace
from typing import Any

import pytest

from longctx.images.runner.device import Cpu
from longctx.images.runner.measure import device_bytes
from longctx.images.runner.protocol import Holding


def measured(roots: list[Any], parts: dict[str, list[Any]] | None = None, members: int = 1) -> dict[str, int]:
    holding = Holding(at="end", logical=1, held=1, analytic=None, full=None, roots=roots, parts=parts or {})
    sizes = device_bytes(holding, Cpu(), None, members)
    return {part: size for part, size in sizes.items() if size}


class Slotted:
    __slots__ = ("__hidden", "never_set", "shown")

    def __init__(self, shown: Any, hidden: Any) -> None:
        self.shown, self.__hidden = shown, hidden


def test_walks_every_kind_of_container_once() -> None:
    one, two, three = bytearray(10), array.array("d", [1.0] * 4), bytearray(7)
    knot: dict[str, Any] = {"again": one, "slots": Slotted(two, (three,))}
    knot["self"] = knot
    assert measured([[one, SimpleNamespace(inner=[knot])], {one[:0].hex(): 1}]) == {"state": 10 + 32 + 7}


def test_parts_are_named_and_the_rest_is_state() -> None:
    codes, scales, left = bytearray(100), bytearray(10), bytearray(3)
    assert measured([[codes, scales, left]], {"codes": [codes], "scales": [[scales]]}) == {"codes": 100, "scales": 10, "state": 3}


def test_batch_members_share_by_whole_division() -> None:
    assert measured([bytearray(101)], members=3) == {"state": 33}


def test_unknown_part_is_refused() -> None:
    with pytest.raises(ValueError, match="names keys; parts are dense"):
        measured([], {"keys": []})


def test_functions_classes_and_modules_are_passed_by() -> None:
    big = bytearray(50)

    def holds() -> bytearray:
        return big

    assert measured([holds, Slotted, array]) == {}


def test_deep_nesting_needs_no_recursion() -> None:
    nest: list[Any] = [bytearray(5)]
    for _ in range(10000):
        nest = [nest]
    assert measured(nest) == {"state": 5}


class PretendGpu:
    """Stands for CUDA: its allocator has given out ``count`` bytes."""

    kind = "cuda"
    peak_repeats = True

    def __init__(self, count: int) -> None:
        self.count = count

    def synchronise(self) -> None: ...

    def loaded(self) -> None: ...

    def allocated(self) -> int:
        return self.count

    def watch(self) -> None: ...

    def peak(self) -> int:
        return 0

    def release(self) -> None: ...


@pytest.mark.parametrize(("allocated", "base", "state"), [(5000, 1000, 4000), (1000, 1000, 0), (500, 1000, 0)])
def test_what_the_allocator_gave_beyond_the_walk_is_state(allocated: int, base: int, state: int) -> None:
    holding = Holding(at="end", logical=1, held=1, analytic=None, full=None, roots=[bytearray(9)], parts={})
    assert device_bytes(holding, PretendGpu(allocated), base, 1) == {"dense": 0, "codes": 0, "scales": 0, "index": 0, "state": state}
