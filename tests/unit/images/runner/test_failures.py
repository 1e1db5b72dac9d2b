"""What exceptions mean."""

import errno

import pytest

from longctx.images.runner.failures import classify, describe
from longctx.images.runner.protocol import TooLong


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


def chained() -> BaseException:
    error = RuntimeError("cannot write the kernel cache")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TooLong("no"), "too_long"),
        (OutOfMemoryError("tried to allocate"), "oom"),
        (RuntimeError("CUDA error: out of memory"), "oom"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "oom"),
        (RuntimeError("CUDA error: device-side assert triggered"), "gpu_lost"),
        (RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be"), "gpu_lost"),
        (RuntimeError("CUDA error: no kernel image is available for execution"), "error"),
        (RuntimeError("out of resource: shared memory"), "error"),
        (ValueError("CUDA out of memory, says the user"), "error"),
        (OSError(errno.EDQUOT, "quota"), "disk_full"),
        (OSError(errno.ENOENT, "no such file"), "error"),
        (chained(), "disk_full"),
        (MemoryError(), "error"),
    ],
)
def test_classify(error: BaseException, kind: str) -> None:
    assert classify(error) == kind


def test_describe_fits_the_contract() -> None:
    told = describe(ValueError("\udcff" + "x" * 9000))
    assert told == {"type": "ValueError", "message": "?" + "x" * 3999}
