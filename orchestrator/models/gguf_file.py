"""A GGUF file opened for reading: typed metadata, and tensors by name, with errors that name the file and the key."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ModelError

if TYPE_CHECKING:
    import numpy
    from gguf import ReaderTensor

T = TypeVar("T", str, int, float, bool)
UNSUPPORTED = "longctx converts Llama-architecture GGUF files with a byte-level BPE; for another model use its safetensors (hf: or path:)."


class GgufFile:
    """Metadata and tensors of one GGUF file; tensors stay on disk until they are asked for."""

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        self.path = path
        try:
            self._reader = GGUFReader(path)
            self.tensors: dict[str, ReaderTensor] = {tensor.name: tensor for tensor in self._reader.tensors}
        except (OSError, ValueError, IndexError, KeyError, OverflowError) as error:
            raise ModelError(f"{path}: not a whole GGUF file ({error}).", "Fetch or copy it again.") from error
        if self._reader.byte_order != "I":
            raise self.unsupported("its byte order is not this machine's")

    def unsupported(self, what: str) -> ModelError:
        """Return the error for something in the file that the conversion does not handle."""
        return ModelError(f"{self.path.name}: {what}.", UNSUPPORTED)

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        """Return one value. Raises ModelError if it is absent without a default, or of another kind (such as one value a layer)."""
        value = self.optional(key, kind)
        if value is not None:
            return value
        if default is None:
            raise self.unsupported(f"its metadata has no {key}")
        return default

    def optional(self, key: str, kind: type[T]) -> T | None:
        """Return one value, or None if it is absent."""
        value = self._contents(key)
        if value is None:
            return None
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise self.unsupported(f"{key} is {type(value).__name__}, not {kind.__name__}")
        return value

    def array(self, key: str, kind: type[T], default: list[T] | None = None) -> list[T]:
        """Return a list. Raises ModelError like ``get``."""
        value = self._contents(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, list) or (value and type(value[0]) is not kind):
            raise self.unsupported(f"its metadata has no list {key}")
        return value

    def _contents(self, key: str) -> Any:
        field = self._reader.get_field(key)
        return None if field is None else field.contents()

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, outermost dimension first."""
        return tuple(int(size) for size in reversed(self.tensors[name].shape.tolist()))

    def values(self, name: str) -> "numpy.ndarray[Any, numpy.dtype[numpy.float32]]":
        """Return a tensor as float32, dequantised as ggml does."""
        import numpy as np
        from gguf.quants import dequantize

        tensor = self.tensors[name]
        try:
            values = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            raise self.unsupported(f"{name} is stored as {tensor.tensor_type.name}, which is not handled") from error
        return np.ascontiguousarray(values, dtype=np.float32).reshape(self.shape(name))
