"""The two places that data comes from: files of a GitHub repository at a commit, and an archive on the Hugging Face hub (or its mirror)."""

import http.client
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

from ...evals.data import Archive, File, Repository
from ..errors import DataError, StorageError
from ..models.network import network_environment
from ..models.source import Report
from ..models.store import UNWRITABLE
from ..settings import Settings

RAW = "https://raw.githubusercontent.com"
"""Where GitHub gives out single files."""
SECONDS = 30.0
TRIES = 3
LARGEST = 2**26
"""Bytes above which a single file of a repository cannot be what is wanted."""


class Unreachable(Exception):
    """The network did not give what was asked; ``str()`` says who did not, and why."""


def url(repository: Repository, file: File) -> str:
    """Return the address of one file."""
    return f"{RAW}/{repository.name}/{repository.commit}/{file.upstream}"


def read(repository: Repository, file: File, settings: Settings) -> bytes:
    """Return one file of a repository, a few hundred kilobytes at most. Raises Unreachable, or DataError where there is no such file."""
    address = url(repository, file)
    for left in reversed(range(TRIES)):
        try:
            with network_environment(settings), urllib.request.urlopen(address, timeout=SECONDS) as answer:
                content: bytes = answer.read(LARGEST)
                return content
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                raise DataError(f"{address} is gone (404).", "Take the files from a folder: --from DIR.") from error
            if not left or error.code < 500:
                raise Unreachable(f"{address}: {error.code} {error.reason}") from error
        except (http.client.HTTPException, TimeoutError, ConnectionResetError) as error:
            if not left:
                raise Unreachable(f"{address}: {error or type(error).__name__}") from error
        except OSError as error:  # a name that is not found, a refused connection, a certificate: another try changes nothing
            raise Unreachable(f"{address}: {getattr(error, 'reason', error)}") from error
        time.sleep(TRIES - left)
    raise AssertionError("the last try returns or raises")


def archive(wanted: Archive, revision: str | None, into: Path, settings: Settings, report: Report) -> tuple[Path, str]:
    """Return the archive, downloaded into ``into``, and its commit. What a killed download left there is gone on with.

    ``revision`` is a commit, or None for the newest. Raises Unreachable, StorageError. The hub's own client leaves nothing behind to go
    on with, so its session is used, with its tokens and mirrors, but not its downloader.
    """
    from huggingface_hub import HfApi, errors, hf_hub_url

    # The base of the HTTP client's own errors (a connection refused is one): httpx's or its successor's, as this hub has it.
    client: type[BaseException] = next(base for base in errors.HfHubHTTPError.__bases__ if base is not OSError)
    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        with network_environment(settings):
            commit = HfApi(endpoint=endpoint).dataset_info(wanted.name, revision=revision, timeout=SECONDS).sha or ""
            report(f"{wanted.file} of {wanted.name}@{commit[:12]}, from the hub")
            address = hf_hub_url(wanted.name, wanted.file, repo_type="dataset", revision=commit, endpoint=endpoint)
            path = into / f"{commit}-{wanted.file}"
            into.mkdir(parents=True, exist_ok=True)
            for left in reversed(range(TRIES)):
                try:
                    if _more(address, path.with_name(f"{path.name}.part"), report):
                        path.with_name(f"{path.name}.part").replace(path)
                        return path, commit
                except client:
                    if not left:
                        raise
                report(f"broken off; going on ({left} more tries)")
                time.sleep(TRIES - left)
    except (client, OSError) as error:
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            step = "Free some space or choose another folder with --data; then run it again."
            raise StorageError(f"{into}: {error.strerror}.", step) from error
        lines = str(error).strip().splitlines()
        raise Unreachable(f"{endpoint or 'https://huggingface.co'}: {lines[0] if lines else type(error).__name__}") from error
    raise Unreachable(f"{endpoint or 'https://huggingface.co'}: {wanted.file} breaks off each time")


def _more(address: str, part: Path, report: Report) -> bool:
    """Add what is missing to a file; return whether it is whole then."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]  # documented, not in __all__

    start = part.stat().st_size if part.exists() else 0
    headers = {**build_hf_headers(), "Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
    with get_session().stream("GET", address, headers=headers, timeout=SECONDS, follow_redirects=True) as answer:
        if answer.status_code == 416:  # longer than the file is: not a part of it
            part.unlink()
            return False
        hf_raise_for_status(answer)
        if answer.status_code != 206:
            start = 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length is not None else None
        done, told = start, start
        with part.open("ab" if start else "wb") as file:
            for piece in answer.iter_raw():
                file.write(piece)
                done += len(piece)
                if total and done - told >= max(total // 10, 2**20):
                    report(f"{done / 2**20:,.0f} of {total / 2**20:,.0f} MiB")
                    told = done
    return total is None or done == total
