"""Rotary embedding for storages that take keys and queries un-rotated from the model."""

from __future__ import annotations

import torch
from torch import Tensor

_Angles = tuple[Tensor, Tensor]
"""Cosines and signed sines, each (positions, rotated dims) in float32."""


class Rotary:
    """Rotates by a model's own inverse frequencies (half-split layout, as Llama, Mistral, Qwen and Gemma have it).

    Angles are computed in float64, so that a position of a million is as exact as a position of one; the rotation runs in float32.
    The model's attention scaling (YaRN) is not applied: with position ids of zero it is in the queries and keys already. ``scaling`` tells
    it to those who rotate what the model did not.
    """

    def __init__(self, inverse_frequencies: Tensor, scaling: float = 1.0) -> None:
        self.scaling = scaling
        self._frequencies = tuple(inverse_frequencies.double().tolist())
        self._first = 0
        self._angles: _Angles | None = None
        self._fixed: tuple[int, _Angles] | None = None

    def prepare(self, first: int, count: int, device: torch.device) -> None:
        """Make the angles of ``count`` positions from ``first`` ready, so that later calls for them only slice."""
        self._first, self._angles = first, self._make(first, count, device)

    def ensure(self, count: int, device: torch.device) -> None:
        """Make the angles of positions ``0 … count - 1`` ready, unless they are."""
        if self._first or self._angles is None or self._angles[0].shape[0] < count or self._angles[0].device != device:
            self.prepare(0, count, device)

    def forget(self) -> None:
        """Drop all angles, so that no tensor outlives its use."""
        self._angles = self._fixed = None

    def at(self, states: Tensor, first: int) -> Tensor:
        """Rotate ``states`` (batch, heads, n, head_dim) as positions ``first … first + n - 1``."""
        count = states.shape[2]
        start = first - self._first
        angles = self._angles
        if angles is None or angles[0].device != states.device or start < 0 or start + count > angles[0].shape[0]:
            self._first, start = first, 0
            angles = self._angles = self._make(first, count, states.device)
        return _rotate(states, angles[0][start : start + count], angles[1][start : start + count])

    def on_device(self, states: Tensor, position: Tensor) -> Tensor:
        """Rotate ``states`` (batch, heads, n, head_dim) as positions (1 or n,) on the device, of those that ``prepare`` made ready."""
        assert self._angles is not None
        place = position - self._first
        return _rotate(states, self._angles[0].index_select(0, place), self._angles[1].index_select(0, place))

    def fixed(self, states: Tensor, position: int) -> Tensor:
        """Rotate all of ``states`` (batch, heads, n, head_dim) as one position."""
        if self._fixed is None or self._fixed[0] != position or self._fixed[1][0].device != states.device:
            self._fixed = position, self._make(position, 1, states.device)
        return _rotate(states, *self._fixed[1])

    def averaged(self, states: Tensor, first: int, count: int) -> Tensor:
        """Apply to ``states`` (…, head_dim) the mean of the rotations of positions ``first … first + count - 1``."""
        cos, sin = self._make(first, count, states.device)
        return _rotate(states, cos.mean(0), sin.mean(0))

    def _make(self, first: int, count: int, device: torch.device) -> _Angles:
        positions = torch.arange(first, first + count, dtype=torch.float64)
        angles = torch.outer(positions, torch.tensor(self._frequencies, dtype=torch.float64))
        cos, sin = angles.cos().float(), angles.sin().float()
        return torch.cat((cos, cos), dim=-1).to(device), torch.cat((-sin, sin), dim=-1).to(device)


def _rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate by (n, rotated dims) tables; the sign of the first half is in ``sin``. Few kernels: decoding is bound by launches."""
    turning = states if cos.shape[-1] == states.shape[-1] else states[..., : cos.shape[-1]]
    turned = (turning * cos + turning.roll(cos.shape[-1] // 2, -1) * sin).to(states.dtype)
    return turned if turning is states else torch.cat((turned, states[..., cos.shape[-1] :]), dim=-1)
