"""How the venv engine calls uv: with the host's settings and the user's own index variables, its progress passed on, its failures told."""

import re
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import EnvironmentFailed
from ..settings import Settings
from .base import Report

REDIRECTING = (
    "VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONSAFEPATH", "UV_PYTHON", "UV_SYSTEM_PYTHON",
    "UV_BREAK_SYSTEM_PACKAGES", "UV_PROJECT", "UV_WORKING_DIR", "UV_PROJECT_ENVIRONMENT", "UV_VENV_CLEAR", "UV_VENV_SEED",
    "UV_REQUIRE_HASHES", "UV_NO_VERIFY_HASHES", "UV_CONSTRAINT", "UV_OVERRIDE", "UV_EXCLUDE", "UV_EXCLUDE_NEWER", "UV_PRERELEASE",
    "UV_RESOLUTION", "UV_NO_BINARY", "UV_NO_BINARY_PACKAGE", "UV_NO_BUILD", "UV_COMPILE_BYTECODE", "UV_NO_PROGRESS",
)  # fmt: skip
"""Variables that would make uv install something else, or elsewhere; every other one (indexes, passwords, caches, timeouts) reaches it."""
OWN_INDEX = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_NO_INDEX")
_PROGRESS = re.compile(r"^\s*(Downloading|Downloaded|Prepared|Installed|Bytecode compiled|Using CPython)\b")
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


def uv_environment(settings: Settings, caller: Mapping[str, str]) -> dict[str, str]:
    """Return uv's variables: the caller's, less what redirects it, plus what the settings say. pip's index variables stand in for uv's."""
    result = {key: value for key, value in caller.items() if key not in REDIRECTING}
    if not any(caller.get(key) for key in OWN_INDEX):
        for pip, own in (("PIP_INDEX_URL", "UV_DEFAULT_INDEX"), ("PIP_EXTRA_INDEX_URL", "UV_INDEX")):
            if caller.get(pip):
                result[own] = caller[pip]
    links = [part for part in caller.get("UV_FIND_LINKS", "").split(",") if part]
    if settings.wheelhouse is not None and (house := str(settings.wheelhouse.expanduser().absolute())) not in links:
        links.insert(0, house)
    if links:
        result["UV_FIND_LINKS"] = ",".join(links)
    certificates = (
        str(settings.certificates.expanduser()) if settings.certificates else caller.get("SSL_CERT_FILE") or caller.get("PIP_CERT")
    )
    if certificates:
        result["SSL_CERT_FILE"] = certificates
    if settings.proxy:
        result.update(dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"), settings.proxy))
    if settings.offline:
        result["UV_OFFLINE"] = "1"
    result["UV_NO_PROGRESS"] = "1"
    return result


@dataclass(frozen=True, kw_only=True)
class Uv:
    """uv, ready to be called. ``held`` are descriptors that stay open in it: an environment's lock outlives a caller that is killed."""

    program: str
    environment: Mapping[str, str]
    folder: Path
    held: tuple[int, ...] = ()

    def ask(self, *arguments: str) -> str | None:
        """Return what uv prints, or None where it fails."""
        quiet = {**self.environment, "UV_PYTHON_DOWNLOADS": "never"}
        done = subprocess.run(
            [self.program, *arguments], env=quiet, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else None

    def do(self, arguments: Sequence[str], *, what: str, next_step: str, report: Report) -> None:
        """Run uv, passing its progress on. Raises EnvironmentFailed saying what failed, with the last lines of uv."""
        last: deque[str] = deque(maxlen=25)
        try:
            with subprocess.Popen(
                [self.program, *arguments], env=dict(self.environment), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, errors="replace", pass_fds=self.held,
            ) as process:  # fmt: skip
                for line in process.stdout or ():
                    plain = _CREDENTIALS.sub("***@", line.rstrip())
                    last.append(plain)
                    if _PROGRESS.match(plain):
                        report(plain.strip())
        except OSError as error:
            raise EnvironmentFailed(
                f"{self.program} cannot be run: {error.strerror}", "Install uv again: `python3 bootstrap.py` does."
            ) from error
        if process.returncode:
            raise EnvironmentFailed(f"{what}\n" + "\n".join(f"  uv: {line}" for line in last if line.strip()), next_step)
