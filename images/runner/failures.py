"""What an exception means: a result (too long, out of memory, the method's own error) or the end of the job (GPU lost, disk full).

Exceptions are told apart by class name and message, because the classes live in packages the runner does not import.
"""

from __future__ import annotations

import errno

from .protocol import TooLong

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space, no quota, or over the process's own limit on file size."""

OUT_OF_MEMORY = ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "HIP out of memory")
LOST = (
    "unspecified launch failure", "device-side assert", "illegal memory access", "illegal instruction", "misaligned address",
    "hardware stack error", "uncorrectable ECC", "ECC error", "GPU is lost", "has fallen off the bus",
    "device(s) is/are busy or unavailable", "no CUDA-capable device", "the launch timed out", "invalid program counter",
    "invalid address space", "unknown error", "driver shutting down", "NVLink",
)  # fmt: skip
"""Errors after which a CUDA context answers nothing any more, so that only a new process helps."""


def disk_full(error: BaseException) -> bool:
    """Whether the exception, or what caused it, says that a disk is full."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if (isinstance(link, OSError) and link.errno in FULL) or "No space left on device" in str(link):
            return True
        link = link.__cause__
    return False


def classify(error: BaseException) -> str:
    """Return ``too_long``, ``oom``, ``gpu_lost``, ``disk_full`` or ``error``."""
    if isinstance(error, TooLong):
        return "too_long"
    if disk_full(error):
        return "disk_full"
    message = str(error)
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return "oom"
    if isinstance(error, RuntimeError):
        if any(words in message for words in OUT_OF_MEMORY):
            return "oom"
        if "CUDA" in message and any(words in message for words in LOST):
            return "gpu_lost"
    return "error"


def describe(error: BaseException) -> dict[str, str]:
    """Return ``{type, message}`` within the contract's lengths."""
    return {"type": type(error).__name__[:200], "message": clean(str(error))[:4000]}


def clean(text: str) -> str:
    """Replace what cannot be UTF-8 (lone surrogates), which a contract refuses."""
    return text.encode("utf-8", "replace").decode("utf-8")
