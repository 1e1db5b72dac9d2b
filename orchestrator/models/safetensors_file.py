"""Write a safetensors file tensor by tensor, so that a model never has to fit into memory."""

import json
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy

StoredDtype = Literal["float32", "bfloat16", "float16"]
_CODES: dict[StoredDtype, tuple[str, int]] = {"float32": ("F32", 4), "bfloat16": ("BF16", 2), "float16": ("F16", 2)}


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor to write: ``load`` returns it as float32 of ``shape``, and is called when its turn comes."""

    name: str
    shape: tuple[int, ...]
    load: "Callable[[], numpy.ndarray[Any, numpy.dtype[numpy.float32]]]"


def lossless(tensors: Iterable[Tensor]) -> StoredDtype:
    """Return the smallest dtype that holds every value bit for bit; stops reading as soon as that is float32."""
    import numpy as np

    candidates: list[StoredDtype] = ["bfloat16", "float16"]
    for tensor in tensors:
        values = tensor.load()
        bits = values.view(np.uint32)
        if "bfloat16" in candidates and (bits & 0xFFFF).any():
            candidates.remove("bfloat16")
        if "float16" in candidates:
            with np.errstate(over="ignore", invalid="ignore"):
                back = values.astype(np.float16).astype(np.float32)
            if (back.view(np.uint32) != bits).any():
                candidates.remove("float16")
        if not candidates:
            return "float32"
    return candidates[0]


def write(path: Path, tensors: Iterable[Tensor], dtype: StoredDtype) -> None:
    """Write the file. ``dtype`` must hold the values exactly (see ``lossless``)."""
    import numpy as np

    tensors = list(tensors)
    code, width = _CODES[dtype]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + width * int(np.prod(tensor.shape, dtype=np.int64))
        header[tensor.name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for tensor in tensors:
            values = np.ascontiguousarray(tensor.load(), dtype="<f4")
            if values.shape != tensor.shape:
                raise ValueError(f"{tensor.name}: {values.shape} instead of {tensor.shape}")
            if dtype == "bfloat16":
                file.write((values.view("<u4") >> 16).astype("<u2").data)
            else:
                file.write(values.astype("<f2", copy=False).data if dtype == "float16" else values.data)
