"""Whether scorers keep the positions that kvpress keeps, per layer and KV head, of the same prompts on tiny random models.

Usage: python benchmarks/against_kvpress.py [--python VERSION]
Needs uv and a package index: it makes an environment of kvpress and a transformers that it works with, and runs itself in it. Prints one
line a comparison and ends with 1 if a set of positions differs by more than a tie (scores equal to six digits: kvpress keeps any of
those, we the later). Where numbers of entries are meant to differ (PyramidKV) kvpress's are taken; where kvpress keeps the last token
whatever its score (TOVA) so is it here. Both are told.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("kvpress==0.5.5", "transformers>=4.56,<5.3", "torch==2.13.0")
TOKENS = (72, 257)
SEEDS = 3
CHUNK = 50
"""Tokens that our prefill reads at once; kvpress sees whole prompts."""


@dataclass(frozen=True)
class Pair:
    """A method of ours and the press that should keep the same."""

    method: str
    params: dict[str, Any]
    press: str
    options: dict[str, Any]
    same_numbers: bool = True
    last: bool = False
    """Whether the press keeps the last token whatever its score, and the method does not."""


PAIRS = (
    Pair("knorm", {}, "KnormPress", {}),
    Pair("keydiff", {}, "KeyDiffPress", {}),
    Pair("tova", {}, "TOVAPress", {}, last=True),
    Pair("snapkv", {"window": 16, "kernel": 5, "pooling": "mean"}, "SnapKVPress", {"window_size": 16, "kernel_size": 5}),
    Pair("snapkv", {"window": 1, "kernel": 1, "pooling": "max"}, "SnapKVPress", {"window_size": 1, "kernel_size": 1}),
    Pair(
        "pyramidkv", {"window": 2, "kernel": 5, "pooling": "mean", "beta": 4.0},
        "PyramidKVPress", {"window_size": 2, "kernel_size": 5, "beta": 4}, same_numbers=False,
    ),
    Pair("expected_attention", {}, "ExpectedAttentionPress", {}),
    Pair("expected_attention", {"epsilon": 0.01, "future": 64}, "ExpectedAttentionPress", {"epsilon": 0.01, "n_future_positions": 64}),
    Pair(
        "expected_attention", {"covariance": False, "values": False, "sinks": 1},
        "ExpectedAttentionPress", {"use_covariance": False, "use_vnorm": False, "n_sink": 1},
    ),
)  # fmt: skip


def main() -> int:
    """Make the environment and run this file in it; there, compare."""
    parser = argparse.ArgumentParser(description="compare kept positions with kvpress's")
    parser.add_argument("--python", default="3.11")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return compare_all()
    uv = shutil.which("uv")
    if uv is None:
        print("against_kvpress: uv is not on PATH; install it (pip install uv) and run this again", file=sys.stderr)
        return 2
    wanted = [part for package in PACKAGES for part in ("--with", package)]
    command = [uv, "run", "--no-project", "--quiet", "--python", options.python, *wanted, "python", __file__, "--inside"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "images"))), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, env=environment, check=False).returncode


def models() -> Iterator[tuple[str, Any]]:
    """Draw tiny models whose heads attend to different places; query heads share KV heads in all of them.

    Norms are drawn too: with the weights of 1 that they are made with, all keys of Qwen 3 have the same length.
    """
    import torch
    import transformers

    shape = {
        "vocab_size": 999, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 6, "num_attention_heads": 8,
        "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 1024, "initializer_range": 0.3, "pad_token_id": 0,
    }  # fmt: skip
    for name, more in (("Llama", {}), ("Qwen2", {"hidden_size": 128}), ("Qwen3", {}), ("Phi3", {"hidden_size": 128})):
        torch.manual_seed(11)
        config = getattr(transformers, f"{name}Config")(**{**shape, **more})
        network = getattr(transformers, f"{name}ForCausalLM")(config).eval().requires_grad_(False)
        for parameter in network.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
        yield name, network


def compare_all() -> int:
    """Print a line for every model, pair and share kept; return 1 if one differs."""
    import kvpress
    import torch
    import transformers
    from methods.kv import seam

    torch.set_num_threads(1)
    seam.register()
    print(f"kvpress {importlib.metadata.version('kvpress')}, transformers {transformers.__version__}, torch {torch.__version__}")
    different = 0
    for name, network in models():
        for pair in PAIRS:
            for keep in (0.5, 0.25):
                press = getattr(kvpress, pair.press)(compression_ratio=1 - keep, **pair.options)
                result = compare(network, pair, press, keep)
                different += result.sets - result.equal - result.tied + (pair.same_numbers and not result.numbers)
                print(f"{name:6} {pair.method:19} keep {keep:<5} {result.told(pair)}; {pair.params or 'defaults'}")
    return 1 if different else 0


@dataclass
class Result:
    """Sets of positions, one a prompt, layer and KV head."""

    sets: int = 0
    equal: int = 0
    tied: int = 0
    """Different in nothing but entries of equal scores."""
    numbers: bool = True
    """Whether the method by itself keeps as many entries as the press."""

    def told(self, pair: Pair) -> str:
        """Say it in a line."""
        text = f"{self.equal} of {self.sets} sets equal"
        if self.tied:
            text += f", {self.tied} but for ties"
        if self.sets > self.equal + self.tied:
            text += f", {self.sets - self.equal - self.tied} DIFFERENT"
        if not self.numbers:
            text += ", OTHER NUMBERS of entries" if pair.same_numbers else ", kvpress's numbers of entries"
        return text + (", last token kept" if pair.last else "")


def compare(network: Any, pair: Pair, press: Any, keep: float) -> Result:
    """Compare what both keep of some prompts."""
    import torch
    from methods.kv.evicting import select
    from methods.kv.policy import make
    from methods.kv.storage.base import PromptLayer

    policy: Any = make(f"methods.{pair.method}.policy:build", {"keep": keep, **pair.params})
    result = Result()
    for length in TOKENS:
        for seed in range(SEEDS):
            # No token twice: its keys and values would be equal in the first layer but for rounding, and which of them is kept chance.
            ids = torch.randperm(999, generator=torch.Generator().manual_seed(seed))[None, :length]
            with torch.inference_mode():
                theirs = pressed(network, press, ids)
                layout, observers = observed(network, policy, ids)
                for layer, (keys, values, kept) in enumerate(theirs):
                    scores = policy.scorer.scores(PromptLayer(layer, keys, values, length, observers[layer])).clone()
                    if pair.last:
                        scores[..., -1] = float("inf")
                    places = select(scores, kept.shape[-1])
                    result.numbers &= policy.entries(layout, layer, 0) == kept.shape[-1]
                    for head in range(keys.shape[1]):
                        either = set(places[0, head].tolist()) ^ set(kept[0, head].tolist())
                        apart = scores[0, head, sorted(either)]
                        result.sets += 1
                        result.equal += not either
                        result.tied += bool(either) and bool(apart.max() - apart.min() <= 1e-6 * apart.abs().max())
    return result


def pressed(network: Any, press: Any, ids: Any) -> list[tuple[Any, Any, Any]]:
    """Read a prompt under a press. Returns keys, values and the places kept (1, kv_heads, kept), in ascending order, by layer."""
    found = []
    compress = press.compress

    def noting(module: Any, hidden: Any, keys: Any, values: Any, attentions: Any, kwargs: Any) -> Any:
        kept = compress(module, hidden, keys, values, attentions, kwargs)
        same = (kept[0].unsqueeze(3) == keys.unsqueeze(2)).all(-1)  # (1, kv_heads, kept, m)
        assert bool((same.sum(-1) == 1).all()), "two keys are alike: their places cannot be told apart"
        found.append((keys, values, same.int().argmax(-1).sort(-1).values))
        return kept

    press.compress = noting
    network.set_attn_implementation("sdpa")
    try:
        with press(network):
            network(ids, use_cache=True)
    finally:
        del press.compress
    return found


def observed(network: Any, policy: Any, ids: Any) -> tuple[Any, Any]:
    """Read a prompt as the library does, in chunks. Returns its layout and the observers, by layer."""
    import torch
    from methods.kv import attention
    from methods.kv.family import _rotary
    from methods.kv.prefill import Reader
    from methods.kv.shape import shape_of
    from methods.kv.storage.base import Layout

    network.set_attn_implementation("longctx")
    layout = Layout(
        shape=shape_of(network.config), lengths=(ids.shape[1],), dtype=torch.float32, device=torch.device("cpu"),
        kernel=attention.FLASH_CPU, rotary=None, full_rotary=_rotary(network),
    )  # fmt: skip
    observers = policy.observers(layout, 0)
    Reader(network, layout, lambda *_: None).read(ids[0].tolist(), [observers], shared=True, chunk=CHUNK)
    return layout, observers


if __name__ == "__main__":
    sys.exit(main())
