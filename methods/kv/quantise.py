"""Numbers as codes of a few bits: groups share a scale and a minimum, codes are packed into bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

BITS = (2, 3, 4, 8)
_HALF_MAX = 65504.0


@dataclass(frozen=True)
class Scheme:
    """How keys, or values, are packed once they are old enough.

    Groups of ``group`` numbers lie along ``tokens`` (each channel on its own, as KIVI's keys) or along ``channels`` (each token on its own,
    as KIVI's values). The youngest entries stay in the model's precision: along tokens they gather until ``residual`` are there and are
    then packed together; along channels the latest ``residual`` always stay, and the oldest is packed when another comes.
    """

    bits: int
    group: int
    along: str
    residual: int

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ValueError(f"bits is one of {', '.join(map(str, BITS))}, not {self.bits}")
        if self.along not in ("tokens", "channels"):
            raise ValueError(f"groups lie along tokens or channels, not {self.along}")
        if self.group < 1 or self.residual < 0:
            raise ValueError(f"group is at least 1 and residual at least 0, not {self.group} and {self.residual}")
        if self.along == "tokens" and (self.residual < self.group or self.residual % self.group):
            raise ValueError(f"residual is a multiple of group where groups lie along tokens; {self.residual} is none of {self.group}")

    @property
    def flush(self) -> int:
        """Entries that are packed together while decoding."""
        return self.residual if self.along == "tokens" else 1

    @property
    def capacity(self) -> int:
        """Entries in full precision that a step may see: when a new one comes and as many are there, the oldest ``flush`` are packed."""
        return self.residual if self.along == "tokens" else self.residual + 1

    def packed(self, entries: int) -> int:
        """Return how many of ``entries`` are packed when the prompt is complete."""
        return entries - entries % self.residual if self.along == "tokens" else max(0, entries - self.residual)

    def fitted(self, head_dim: int) -> Scheme:
        """Return the scheme with groups that divide the head dimension. Raises ValueError where its codes fill no whole bytes."""
        if head_dim % (8 if self.bits == 3 else 8 // self.bits):
            raise ValueError(f"codes of {self.bits} bits of a head of {head_dim} fill no whole bytes")
        return self if self.along == "tokens" else replace(self, group=math.gcd(self.group, head_dim))

    def code_bytes(self, head_dim: int) -> int:
        """Bytes of one entry's codes in one KV head."""
        return head_dim * self.bits // 8

    def scales(self, entries: int, head_dim: int) -> tuple[int, int]:
        """Shape of the scales, and of the minima, of packed entries of one KV head."""
        return (entries // self.group, head_dim) if self.along == "tokens" else (entries, head_dim // self.group)


@dataclass(frozen=True)
class Codes:
    """Packed entries of some rows."""

    scheme: Scheme
    codes: Tensor
    """(rows, kv_heads, entries, head_dim × bits / 8) in uint8."""
    scale: Tensor
    """(rows, kv_heads, entries / group, head_dim) along tokens, (rows, kv_heads, entries, head_dim / group) along channels; float16."""
    minimum: Tensor
    """As ``scale``."""

    def block(self, low: int, high: int, dtype: torch.dtype) -> Tensor:
        """Unpack entries ``low … high - 1`` into (rows, kv_heads, high - low, head_dim); along tokens ``low`` starts a group."""
        group = self.scheme.group if self.scheme.along == "tokens" else 1
        first, last = low // group, -(-high // group)
        wide = slice(first * group, last * group)
        part = Codes(self.scheme, self.codes[:, :, wide], self.scale[:, :, first:last], self.minimum[:, :, first:last])
        return part.all(dtype)[:, :, : high - low]

    def all(self, dtype: torch.dtype) -> Tensor:
        """Unpack everything: for few entries."""
        scheme = self.scheme
        dim = 3 if scheme.along == "tokens" else 4
        # float16 holds every code exactly, and scale and minimum are float16 anyhow; on CPU it is slow
        middle = torch.float32 if dtype == torch.float32 or not self.codes.is_cuda else torch.float16
        codes = unpack(self.codes, scheme.bits).unflatten(dim - 1, (-1, scheme.group)).to(middle)
        numbers = torch.addcmul(self.minimum.unsqueeze(dim).to(middle), codes, self.scale.unsqueeze(dim).to(middle))
        return numbers.flatten(dim - 1, dim).to(dtype)

    def at(self, places: Tensor, dtype: torch.dtype) -> Tensor:
        """Unpack the entries at ``places`` (rows, n) into (rows, kv_heads, n, head_dim)."""
        scheme = self.scheme
        wholes = places // scheme.group if scheme.along == "tokens" else places
        alone = replace(scheme, group=1, residual=1) if scheme.along == "tokens" else scheme
        return Codes(alone, _taken(self.codes, places), _taken(self.scale, wholes), _taken(self.minimum, wholes)).all(dtype)


def _taken(states: Tensor, places: Tensor) -> Tensor:
    index = places[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
    return states.gather(2, index)


def quantise(states: Tensor, scheme: Scheme) -> Codes:
    """Pack (rows, kv_heads, n, head_dim); along tokens ``n`` is a multiple of the group.

    Of each group the minimum and the scale, (max - min) / (2^bits - 1), are rounded to float16 first; each code is then the nearest of what
    these two can say. A group of one value has scale 0 and comes back as its minimum.
    """
    dim = 3 if scheme.along == "tokens" else 4
    grouped = states.float().unflatten(dim - 1, (-1, scheme.group))
    least, most = grouped.aminmax(dim=dim, keepdim=True)
    levels = 2**scheme.bits - 1
    minimum, scale = _half(least), _half((most - least) / levels)
    divisor = scale.float().masked_fill(scale == 0, 1.0)
    codes = ((grouped - minimum.float()) / divisor).round_().clamp_(0, levels).to(torch.uint8)
    return Codes(scheme, pack(codes.flatten(dim - 1, dim), scheme.bits), scale.squeeze(dim), minimum.squeeze(dim))


def _half(numbers: Tensor) -> Tensor:
    return numbers.clamp(-_HALF_MAX, _HALF_MAX).half()


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack uint8 codes (…, d) into bytes (…, d × bits / 8).

    The head dimension is cut into planes, and the codes at one place of every plane share a byte (3 bits: eight share three bytes), so that
    unpacking is shifts over whole planes.
    """
    if bits == 8:
        return codes
    if bits == 3:
        planes = codes.unflatten(-1, (8, -1)).int()
        word = planes[..., 0, :]
        for plane in range(1, 8):
            word = word | planes[..., plane, :] << 3 * plane
        return torch.cat([word >> 8 * byte & 255 for byte in range(3)], dim=-1).to(torch.uint8)
    planes = codes.unflatten(-1, (8 // bits, -1))
    packed = planes[..., 0, :]
    for plane in range(1, 8 // bits):
        packed = packed | planes[..., plane, :] << bits * plane
    return packed.contiguous()


def unpack(packed: Tensor, bits: int) -> Tensor:
    """Return the uint8 codes (…, d) of bytes that ``pack`` made."""
    if bits == 8:
        return packed
    if bits == 3:
        parts = packed.unflatten(-1, (3, -1)).int()
        word = parts[..., 0, :] | parts[..., 1, :] << 8 | parts[..., 2, :] << 16
        shifts = torch.arange(0, 24, 3, dtype=torch.int32, device=packed.device)[:, None]
        return (word.unsqueeze(-2) >> shifts & 7).to(torch.uint8).flatten(-2)
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)[:, None]
    return (packed.unsqueeze(-2) >> shifts & 2**bits - 1).flatten(-2)
