"""Four variants on one prefill, against one variant alone: seconds from the prompt to every variant's first token.

    PYTHONPATH=images:. python benchmarks/shared_prefill.py FOLDER --tokens 32768

Runs in an environment (torch, transformers), on its first GPU where there is one. FOLDER holds a config.json, such as the folder that
``longctx models fetch random-llama-3-8b`` names; weights are drawn. Alone and together are timed in turns, after one round of warming up.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from methods.kv.family import CacheFamily
from runner.protocol import Hooks, Model, Prompt

SETS: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "SnapKV, Knorm, KeyDiff, KIVI-2": [
        ("snapkv", "methods.snapkv.policy:build", {"keep": 0.25}),
        ("knorm", "methods.knorm.policy:build", {"keep": 0.25}),
        ("keydiff", "methods.keydiff.policy:build", {"keep": 0.25}),
        ("kivi", "methods.kivi.policy:build", {"bits": 2}),
    ],
    "H2O, SnapKV, TOVA, KIVI-2": [
        ("h2o", "methods.h2o.policy:build", {"keep": 0.25}),
        ("snapkv", "methods.snapkv.policy:build", {"keep": 0.25}),
        ("tova", "methods.tova.policy:build", {"keep": 0.25}),
        ("kivi", "methods.kivi.policy:build", {"bits": 2}),
    ],
}


def main() -> None:
    """Time every set of variants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    family = CacheFamily()
    family.load(
        Model(
            name="m", path=str(options.folder), dtype=options.dtype, window=options.tokens + 64, rope=None, weights="random",
            device="cuda:0" if cuda else "cpu", attention="auto", seed=0,
        )
    )  # fmt: skip
    vocabulary = json.loads((options.folder / "config.json").read_text())["vocab_size"]
    ids = torch.randint(0, vocabulary, (options.tokens,), generator=torch.Generator().manual_seed(0)).tolist()
    prompt = Prompt(id="p", ids=ids, spans=(), stop_ids=(), stop_strings=(), min_new_tokens=1, max_new_tokens=1)
    print(f"{torch.cuda.get_device_name() if cuda else 'CPU'}, {options.tokens} tokens, {options.dtype}")
    for name, variants in SETS.items():
        bounds = [family.bind(method, policy, params) for method, policy, params in variants]

        def alone() -> None:
            family.bind("full-kv", "methods.full_kv.policy:build", {}).generate([prompt], hooks(cuda), 1)

        def together(bounds: Sequence[Any] = tuple(bounds)) -> None:
            shared = bounds[0].share(bounds, [prompt], lambda *_: None)
            for bound in bounds:
                bound.generate([prompt], hooks(cuda), 1, shared=shared)

        timed(alone, cuda), timed(together, cuda)
        pairs = [(timed(alone, cuda), timed(together, cuda)) for _ in range(options.repeats)]
        one, four = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{name}: full-kv alone {one:.2f} s, the four together {four:.2f} s: {four / one:.2f} times")


def hooks(cuda: bool) -> Hooks:
    """Return hooks that only keep time."""

    def clock() -> float:
        if cuda:
            torch.cuda.synchronize()
        return time.monotonic()

    return Hooks(clock=clock, holding=lambda *_: None, before_cache=lambda: None, phase=lambda *_: None, stopping=lambda: False)


def timed(call: Callable[[], None], cuda: bool) -> float:
    """Return the seconds of a call, the device's work included."""
    gc.collect()
    if cuda:
        torch.cuda.synchronize()
    started = time.monotonic()
    call()
    if cuda:
        torch.cuda.synchronize()
    return time.monotonic() - started


if __name__ == "__main__":
    main()
