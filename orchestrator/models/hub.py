"""``hf:OWNER/NAME@REVISION``: a repository of the Hugging Face hub, kept in the hub's own cache.

A revision that is no commit is resolved once and then stays: results must not change because a branch moved. Only files that a job
reads are fetched. That a download is whole is written down in a small file of ours, since the hub's cache does not say so.
"""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from ..contracts.manifest import ModelSpec
from ..errors import ModelError, StorageError
from ..settings import Settings
from .folder import choose, choose_in
from .network import network_environment
from .source import Located, Report
from .store import UNWRITABLE, models_folder, read_json, storage_errors, write_json

SYNTAX = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?)(@(?P<revision>[\w./-]+))?", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
SECONDS = 20.0


def check(rest: str, spec: ModelSpec) -> str | None:
    """Say whether a repository is named, and perhaps a revision."""
    found = SYNTAX.fullmatch(rest)
    if not found or "--" in found["repo"] or ".." in rest:
        return f"{spec.source}: write hf:OWNER/NAME or hf:OWNER/NAME@REVISION (a commit, tag or branch)"
    return None


def is_pinned(rest: str) -> bool:
    """Whether the revision is a whole commit hash, which nobody can move."""
    return COMMIT.fullmatch(rest.partition("@")[2]) is not None


def locate(rest: str, spec: ModelSpec, settings: Settings) -> Located | None:
    """Return what was fetched before, if every file is still there in full."""
    record = read_json(_record(rest, spec, settings))
    if not isinstance(record, dict) or not {"folder", "commit", "files"} <= record.keys():
        return None
    folder = Path(record["folder"])
    for name, size in record["files"].items():
        try:
            if (folder / name).stat().st_size != size:
                return None
        except OSError:
            return None
    return Located(folder=folder, files=tuple(sorted(record["files"])), revision=record["commit"])


def _record(rest: str, spec: ModelSpec, settings: Settings) -> Path:
    repo = rest.partition("@")[0].replace("/", "--")
    key = hashlib.sha256(f"{rest}\0{spec.trust_remote_code}".encode()).hexdigest()[:16]
    return models_folder(settings) / f"hf-{repo}-{key}.json"


def fetch(rest: str, spec: ModelSpec, settings: Settings, report: Report) -> Located:
    """Fetch what is missing of a commit; without the network, take the hub's cache if it holds a whole model."""
    repo, _, revision = rest.partition("@")
    cached = _cached(repo, revision)
    if settings.offline:
        return _from_cache(cached, rest, spec, report, "nothing is fetched now (offline)")
    from huggingface_hub import errors

    # The base of the HTTP client's own errors (a connection refused is one): httpx's or its successor's, as this hub has it.
    client: type[BaseException] = next(base for base in errors.HfHubHTTPError.__bases__ if base is not OSError)
    try:
        with network_environment(settings):
            # A commit that the cache has for this branch is completed rather than replaced by a newer one.
            located = _download(repo, cached.name if cached else revision or None, spec, report)
    except errors.GatedRepoError as error:
        raise ModelError(
            f"model {spec.name}: {repo} is gated: its owner asks you to accept a licence first.",
            "Accept it on the repository's page, then log in once with `hf auth login` (or set HF_TOKEN) and run the same command again.",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"model {spec.name}: the hub knows no repository {repo}, or it is private.",
            "Check its spelling; for a private one log in with `hf auth login` or set HF_TOKEN.",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(
            f"model {spec.name}: {repo} has no revision {revision or 'main'}.",
            "Name a commit, tag or branch of that repository after the @.",
        ) from error
    except errors.HFValidationError as error:
        raise ModelError(f"model {spec.name}: {error}", "Write hf:OWNER/NAME or hf:OWNER/NAME@REVISION.") from error
    except (client, OSError) as error:
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            raise StorageError(f"the hub's cache: {error}", "Free some space, or name another folder in HF_HOME.") from error
        return _from_cache(cached, rest, spec, report, f"the hub cannot be reached ({_first_line(error)})")
    sizes = {name: (located.folder / name).stat().st_size for name in located.files}
    record = _record(rest, spec, settings)
    with storage_errors(record.parent):
        record.parent.mkdir(parents=True, exist_ok=True)
        write_json(record, {"folder": str(located.folder), "commit": located.revision, "files": sizes})
    return located


def _download(repo: str, revision: str | None, spec: ModelSpec, report: Report) -> Located:
    from huggingface_hub import HfApi, snapshot_download

    endpoint = os.environ.get("HF_ENDPOINT") or None
    info = HfApi(endpoint=endpoint).model_info(repo, revision=revision, timeout=SECONDS)
    commit = info.sha or ""
    names = [sibling.rfilename for sibling in info.siblings or ()]
    chosen = choose(names, where=f"{repo}@{commit[:12]}", code=spec.trust_remote_code)
    report(f"fetching {repo}@{commit[:12]} ({len(chosen)} files) into the hub's cache")
    folder = Path(snapshot_download(repo, revision=commit, allow_patterns=list(chosen), endpoint=endpoint))
    absent = [name for name in chosen if not (folder / name).is_file()]
    if absent:
        raise ModelError(f"model {spec.name}: {repo}: {', '.join(absent)} did not arrive.", "Run the same command again.")
    return Located(folder=folder, files=choose_in(folder, code=spec.trust_remote_code), revision=commit)


def _cached(repo: str, revision: str) -> Path | None:
    """Return the snapshot folder that the hub's cache has for a revision, whole or not."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repo, revision=revision or None, local_files_only=True, allow_patterns=["config.json"]))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return folder if COMMIT.fullmatch(folder.name) else None


def _from_cache(cached: Path | None, rest: str, spec: ModelSpec, report: Report, why: str) -> Located:
    step = (
        "Run once where the hub can be reached (proxy and certificates are in the settings, HF_ENDPOINT names a mirror), "
        "or copy the model there and write `path:FOLDER`."
    )
    if cached is None:
        raise ModelError(f"model {spec.name}: {rest} is not in the hub's cache and {why}.", step)
    try:
        files = choose_in(cached, code=spec.trust_remote_code)
    except ModelError as error:
        raise ModelError(f"model {spec.name}: {rest} is only partly in the hub's cache and {why}: {error.args[0]}", step) from error
    report(f"{rest}: {why}; taking commit {cached.name[:12]} from the hub's cache")
    return Located(folder=cached, files=files, revision=cached.name)


def _first_line(error: BaseException) -> str:
    text: Any = str(error).strip().splitlines()
    return str(text[0])[:200] if text else type(error).__name__
