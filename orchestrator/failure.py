"""The failure table: from how a process ended and what its runner wrote last to a verdict.

Only what the infrastructure did is retried; what a method or a model did is a result, and none changes a denominator.
"""

from dataclasses import dataclass

from .contracts.outcome import Exit, Outcome
from .engines.base import Ended


@dataclass(frozen=True)
class Rule:
    """What follows from an outcome."""

    retry: bool
    charged: bool
    next_step: str


RULES: dict[Outcome, Rule] = {
    "done": Rule(False, False, ""),
    "stopped": Rule(False, False, "Run the same command to resume."),
    "host_oom": Rule(False, True, "Give the job more memory (resources.memory), a smaller batch, or a machine with more."),
    "cuda_oom_loading": Rule(False, True, "The model does not fit the GPU: use a smaller dtype, more GPUs, or a larger one."),
    "timeout": Rule(True, True, "Raise resources.load_s, sample_s or cell_s, or look at the log for where it hung."),
    "gpu_lost": Rule(True, True, "Check the GPU (nvidia-smi, dmesg); the job is tried once more."),
    "disk_full": Rule(False, False, "Free some space, then run the same command to resume."),
    "image_missing": Rule(False, False, "Build it: `longctx run` does so unless told otherwise."),
    "method_raised": Rule(False, True, "Read the log; the method or its parameters do not fit this model."),
    "load_failed": Rule(False, True, "Read the log: the model's files, dtype or environment do not fit together."),
    "killed": Rule(True, True, "Something outside killed it; it is tried once more."),
    "bad_output": Rule(False, True, "The container wrote what it may not; nothing of it was used."),
    "engine_lost": Rule(True, True, "Look at the engine (`longctx doctor`); the job is tried once more."),
    "engine_unavailable": Rule(False, False, "Look at the engine (`longctx doctor`), then run the same command."),
    "environment_failed": Rule(False, False, "Mend the environment as the message says."),
    "not_started": Rule(True, True, "Read the log for why the process did not start."),
}
"""What to do after each outcome."""

_REASONS: dict[str, Outcome] = {
    "cuda_oom": "cuda_oom_loading",
    "gpu_lost": "gpu_lost",
    "disk_full": "disk_full",
    "method_raised": "method_raised",
    "load_failed": "load_failed",
    "bad_job": "load_failed",
    "sigterm": "stopped",
}


def judge(ended: Ended | None, last_word: Exit | None, *, timed_out: str | None, stopping: bool) -> tuple[Outcome, str]:
    """Return the outcome of an attempt and one line of detail.

    ``ended`` is None when the process never started; ``timed_out`` names the clock that ran out; ``stopping`` means a person asked.
    """
    if ended is None:
        return "not_started", ""
    if last_word is not None and last_word.status == "done":
        # It is written when everything else is: whatever befell the process afterwards took nothing away.
        return "done", "" if ended.code == 0 else f"the process ended with {ended.code} after its last word"
    if timed_out:
        return "timeout", f"the {timed_out} limit ran out"
    if ended.oom_killed:
        return "host_oom", "the memory limit of the job was reached"
    if last_word is not None and last_word.reason == "sigterm" and not stopping:
        return "killed", "something other than longctx asked it to stop (SIGTERM)"
    if last_word is not None:
        return _REASONS.get(last_word.reason, "method_raised"), last_word.message
    if stopping:
        return "stopped", ""
    if ended.code < 0:
        return "killed", f"by signal {-ended.code}"
    return "killed", f"exit code {ended.code} without a last word"
