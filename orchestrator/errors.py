"""Every fatal error of the command line: one class and one exit code each, and a message that ends with what to do next."""

from typing import ClassVar


class LongctxError(Exception):
    """A condition that ends a command. ``str()`` is the whole message shown to a person."""

    exit_code: ClassVar[int] = 1
    meaning: ClassVar[str] = "unexpected failure"

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.next_step = next_step

    def __str__(self) -> str:
        """Return the message followed by the next step."""
        message = super().__str__()
        return f"{message}\n{self.next_step}" if self.next_step else message


class UsageError(LongctxError):
    """The command line itself is wrong."""

    exit_code = 2
    meaning = "wrong arguments"


class ManifestError(LongctxError):
    """The manifest, or a file it names, is wrong. Nothing was written."""

    exit_code = 3
    meaning = "the manifest or a file it names is wrong; nothing was written"


class ModelError(LongctxError):
    """A model cannot be had, or its files are not what they should be."""

    exit_code = 4
    meaning = "a model cannot be had, or its files are wrong"


class DataError(LongctxError):
    """An eval's data is missing or altered."""

    exit_code = 5
    meaning = "an eval's data is missing or altered"


class EnvironmentFailed(LongctxError):
    """An environment or image cannot be made."""

    exit_code = 6
    meaning = "an environment or image cannot be made"


class EngineUnavailable(LongctxError):
    """The chosen engine does not answer."""

    exit_code = 7
    meaning = "the chosen engine does not answer"


class RunIncomplete(LongctxError):
    """Some cells have no result, or only part of one; everything that was answered is kept."""

    exit_code = 8
    meaning = "some cells failed or are partial; what was answered is kept"


class RunLocked(LongctxError):
    """Another process works on the same run."""

    exit_code = 9
    meaning = "another process works on the same run"


class StorageError(LongctxError):
    """The disk is full, or a folder cannot be written."""

    exit_code = 10
    meaning = "the disk is full or not writable"


class BadRunFolder(LongctxError):
    """A run folder is missing or holds what longctx did not write."""

    exit_code = 11
    meaning = "a run folder is missing or damaged"


class ScoreRefused(LongctxError):
    """Responses cannot be scored together."""

    exit_code = 12
    meaning = "responses cannot be scored together"


class Interrupted(LongctxError):
    """Stopped by the user; the run can be resumed."""

    exit_code = 130
    meaning = "stopped by Ctrl-C or SIGTERM; run the same command to resume"


FATAL: tuple[type[LongctxError], ...] = (
    LongctxError, UsageError, ManifestError, ModelError, DataError, EnvironmentFailed, EngineUnavailable, RunIncomplete,
    RunLocked, StorageError, BadRunFolder, ScoreRefused, Interrupted,
)  # fmt: skip
"""All of them, for the documentation and a test that codes are distinct."""
