"""Rotary embedding for storages that take keys and queries un-rotated from the model."""

from __future__ import annotations

import torch
from torch import Tensor


class Rotary:
    """Rotates by a model's own inverse frequencies (half-split layout, as Llama, Mistral, Qwen and Gemma have it).

    Angles are computed in float64, so that a position of a million is as exact as a position of one; the rotation runs in float32.
    The model's attention scaling (YaRN) is not applied: with position ids of zero it is in the queries and keys already.
    """

    def __init__(self, inverse_frequencies: Tensor) -> None:
        self._frequencies = tuple(inverse_frequencies.double().tolist())
        self._first = 0
        self._cos: Tensor | None = None
        self._sin: Tensor | None = None

    def prepare(self, first: int, count: int, device: torch.device) -> None:
        """Make the angles of ``count`` positions from ``first`` ready, so that later calls for them only slice."""
        positions = torch.arange(first, first + count, dtype=torch.float64)
        angles = torch.outer(positions, torch.tensor(self._frequencies, dtype=torch.float64))
        self._first = first
        self._cos = angles.cos().to(device=device, dtype=torch.float32)
        self._sin = angles.sin().to(device=device, dtype=torch.float32)

    def forget(self) -> None:
        """Drop what ``prepare`` made, so that no tensor outlives its use."""
        self._cos = self._sin = None

    def at(self, states: Tensor, first: int) -> Tensor:
        """Rotate ``states`` (batch, heads, n, head_dim) as positions ``first … first + n - 1``."""
        count = states.shape[2]
        start = first - self._first
        if self._cos is None or self._sin is None or self._cos.device != states.device or start < 0 or start + count > self._cos.shape[0]:
            self.prepare(first, count, states.device)
            start = 0
        assert self._cos is not None and self._sin is not None
        return _rotate(states, self._cos[start : start + count], self._sin[start : start + count])

    def fixed(self, states: Tensor, position: int) -> Tensor:
        """Rotate all of ``states`` (batch, heads, n, head_dim) as one position."""
        angles = position * torch.tensor(self._frequencies, dtype=torch.float64)
        cos, sin = angles.cos().float().to(states.device), angles.sin().float().to(states.device)
        return _rotate(states, cos[None], sin[None])


def _rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = cos.shape[-1]
    rotated = states[..., : 2 * half].float()
    first, second = rotated[..., :half], rotated[..., half:]
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(states.dtype)
    if states.shape[-1] == 2 * half:
        return turned
    return torch.cat((turned, states[..., 2 * half :]), dim=-1)
