"""``python -m runner --root ROOT``: works on one job and says in ``out/exit.json`` how it went.

Exit codes: 0 done · 64 bad job · 70 failed · 75 stopped on request · 111 whoever started it is gone.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from . import ending, kernels, lifeline, work
from .attempt import Attempt
from .device import Cpu
from .emit import Events, ExitFile
from .ending import BadJob, Ending, Failed
from .failures import classify, describe
from .job import read
from .stop import Stop


def main() -> int:
    """Run the job in the root; return the exit code."""
    parser = argparse.ArgumentParser(prog="runner", description="Works on one longctx job.")
    parser.add_argument("--root", type=Path, required=True, help="folder with job.json, model/, requests/ and the writable out/")
    root: Path = parser.parse_args().root.absolute()
    lifeline.hold()
    faulthandler.enable()
    stop = Stop()
    out = root / "out"
    try:
        exit_file = ExitFile(out)
    except OSError as error:
        print(f"runner: out/ cannot be written: {error}", file=sys.stderr)
        return ending.FAILED
    attempt: Attempt | None = None
    ended: Ending | None = None
    try:
        job = read(root)
        attempt = Attempt(job, out, Events(out), stop, Cpu())
        if warning := kernels.seed(root, os.environ):
            attempt.events.warn(warning)
        work.do(attempt)
    except BaseException as error:  # the last word must be written whatever was raised, a panic inside a tokenizer included
        ended = _ending(error)
    stop.at_once = False
    if attempt:
        _keep_kernels(root, attempt, ended is None)
    phase, answered = (attempt.phase, attempt.answered) if attempt else ("start", 0)
    if ended is None:
        exit_file.write("done", phase, "ok", "", answered)
        return ending.DONE
    exit_file.write(ended.status, phase, ended.reason, str(ended), answered)
    print(f"runner: {ended.status} ({ended.reason}): {ended}", file=sys.stderr)
    return ended.code


def _keep_kernels(root: Path, attempt: Attempt, ended_well: bool) -> None:
    """Leave new compiled kernels for later jobs. They are a convenience: whatever goes wrong here is told and changes nothing."""
    try:
        warning = kernels.keep(root, attempt.out, os.environ, ended_well)
    except Exception as error:  # the last word is not written yet
        traceback.print_exc(file=sys.stderr)
        warning = f"compiled kernels were not kept for later jobs: {type(error).__name__}: {error}"
    if warning:
        print(f"runner: {warning}", file=sys.stderr)
        with contextlib.suppress(OSError):
            attempt.events.warn(warning)


def _ending(error: BaseException) -> Ending:
    """Return what ends the job. What the runner did not foresee is told with its traceback on stderr."""
    if isinstance(error, Ending):
        if error.__cause__ is not None and not isinstance(error, BadJob):
            traceback.print_exception(type(error), error, error.__traceback__)
        return error
    traceback.print_exception(type(error), error, error.__traceback__)
    kind = classify(error)
    told: dict[str, Any] = describe(error)
    message = f"{told['type']}: {told['message']}"
    if kind == "disk_full":
        return Failed("disk_full", f"{message}; free space on the disk of the run folder, then run again")
    return Failed({"gpu_lost": "gpu_lost", "oom": "cuda_oom"}.get(kind, "method_raised"), message)


def _leave(code: int) -> None:
    """End the process at once: threads that a package left running must not keep a finished job alive."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    _leave(main())
