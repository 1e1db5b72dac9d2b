"""A family without torch: echoes its prompt's ids. Staged as ``methods.fake.family``; parameters make it misbehave."""

import os
import sys
import time

from runner.protocol import Answer, Holding, TooLong


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


class Fake:
    def load(self, model):
        self.model = model
        failure = os.environ.get("FAKE_LOAD", "")
        if failure == "oom":
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        if failure == "error":
            raise OSError("no file named model.safetensors")
        if failure == "sleep":
            print("sleeping", flush=True)
            time.sleep(60)

    def describe(self):
        return {"attention": "none at all", "weights": 1000, "config": {}}

    def bind(self, method, policy, params):
        if params.get("unbindable"):
            raise KeyError("no such policy")
        return Forking(self.model, params) if params.get("shares") else Echo(self.model, params)

    def close(self):
        print("closed", flush=True)


class Echo:
    def __init__(self, model, params):
        self.window = model.window
        self.behave = params.get("behave", {})
        self.pause = params.get("pause", 0)
        self.named = params.get("named", True)

    prefill = "own"

    def generate(self, batch, hooks, exact_new_tokens=None):
        long = [prompt.id for prompt in batch if len(prompt.ids) + prompt.max_new_tokens > self.window]
        if long:
            raise TooLong(f"window is {self.window}", long if self.named else ())
        cache = {prompt.id: bytearray(4 * len(prompt.ids)) for prompt in batch}
        scales = {prompt.id: bytearray(8) for prompt in batch}
        hooks.before_cache()
        print("batch", " ".join(prompt.id for prompt in batch), "exact", exact_new_tokens, flush=True)
        for prompt in batch:
            started = hooks.clock()
            hooks.phase("prefill", len(prompt.ids))
            time.sleep(self.pause)
            how = self.behave.get(prompt.id, "")
            roots = [cache, scales]
            hooks.holding(
                prompt.id,
                Holding(
                    at="prefill", logical=len(prompt.ids), held=len(prompt.ids) / 2, analytic=4 * len(prompt.ids), full=8 * len(prompt.ids),
                    roots=roots, parts={"dense": list(cache.values()), "scales": list(scales.values())},
                ),
            )  # fmt: skip
            self.misbehave(how, hooks)
            generated = exact_new_tokens or min(prompt.max_new_tokens, 3)
            if how == "skip":
                continue
            yield Answer(
                id=prompt.id,
                text="\ud800" if how == "surrogate" else " ".join(map(str, prompt.ids[:generated])),
                finish="maybe" if how == "finish" else "length",
                generated=generated,
                fed_ids=list(prompt.ids[1:]) if how == "compress" else prompt.ids,
                compressed=len(prompt.ids) - 1 if how == "compress" else None,
                prefill=self.prefill,
                prefill_s=float("nan") if how == "nan" else hooks.clock() - started,
                decode_s=0.0,
            )

    def misbehave(self, how, hooks):
        if how == "error":
            raise ZeroDivisionError("the policy divides")
        if how == "exit":
            sys.exit("research code leaves like this")
        if how == "oom":
            hooks.phase("decode", 7)
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")
        if how == "lost":
            raise RuntimeError("CUDA error: unspecified launch failure")
        if how == "full":
            raise OSError(28, "No space left on device")
        if how == "kill":
            os.kill(os.getpid(), 9)


class Forking(Echo):
    """Shares what it read with others of the same ``shares``; ``tight``: has no room while it does."""

    def __init__(self, model, params):
        super().__init__(model, params)
        self.params = params
        self.shares_with = params["shares"]

    def share(self, bounds, batch, phase):
        print("read for", " ".join(bound.params["name"] for bound in bounds), ":", " ".join(prompt.id for prompt in batch), flush=True)
        if self.params.get("unreadable"):
            raise ValueError("nothing to share")
        return [prompt.id for prompt in batch]

    def generate(self, batch, hooks, exact_new_tokens=None, shared=None):
        self.prefill = "own" if shared is None else "forked"
        if shared is not None and self.params.get("tight"):
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")
        assert shared in (None, [prompt.id for prompt in batch])
        yield from super().generate(batch, hooks, exact_new_tokens)

    def forget(self):
        print("forgets", self.params["name"], flush=True)
