"""``path:FOLDER`` (config, tokenizer, safetensors) and ``path:FILE.gguf``."""

from pathlib import Path

from ..contracts.manifest import ModelSpec
from ..errors import ModelError
from ..settings import Settings
from .checksums import Checksums
from .folder import choose_in
from .source import Located, Report
from .store import build, complete

CONVERTER = 1
"""Raise it when the conversion of a GGUF gives other files: what was converted before is then made again."""


def check(rest: str, spec: ModelSpec) -> str | None:
    """Say whether there is a folder, or a GGUF file."""
    path = Path(rest).expanduser()
    if path.is_dir():
        return None
    if not path.exists():
        return f"{spec.source}: there is no {path.absolute()}"
    return None if is_gguf(path) else f"{spec.source}: neither a folder nor a .gguf file"


def locate(rest: str, spec: ModelSpec, settings: Settings) -> Located | None:
    """Return the folder as it is, or what its GGUF file was converted to before."""
    path = Path(rest).expanduser().absolute()
    if path.is_dir():
        return Located(folder=path, files=choose_in(path, code=spec.trust_remote_code), revision=None)
    if not path.is_file():
        return None
    sha256 = Checksums(settings).known(path)
    made = complete(settings, gguf_key(sha256)) if sha256 else None
    return Located(folder=made[0], files=made[1], revision=None) if made else None


def fetch(rest: str, spec: ModelSpec, settings: Settings, report: Report) -> Located:
    """Convert a GGUF file."""
    path = Path(rest).expanduser().absolute()
    if not path.is_file():
        raise ModelError(f"{spec.source}: there is no {path}", "Mend the path; it is relative to the manifest's folder.")
    from .convert import convert

    checksums = Checksums(settings)
    key = gguf_key(checksums.of(path, report))
    checksums.save()
    folder, files = build(settings, key, lambda into: convert(path, into, report), report)
    return Located(folder=folder, files=files, revision=None)


def gguf_key(sha256: str) -> str:
    """Name the folder that holds a converted GGUF of this content."""
    return f"gguf-{sha256[:20]}-v{CONVERTER}"


def is_gguf(path: Path) -> bool:
    """Whether a file's name says that it is GGUF."""
    return path.suffix.lower() == ".gguf"
