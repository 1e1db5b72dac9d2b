"""What an image is made from, and hence its name: the hash covers what decides its content, and nothing that merely fetches it. Pure.

A base with Python and a compiler → an environment → a family's code. Three images, so that each is built once and its layers are shared.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..contracts.job import DeviceKind
from ..environments import Environment
from ..store import digest

IMAGES = Path(__file__).resolve().parents[2] / "images"
DOCKERFILE = IMAGES / "Dockerfile"
INSTALL = IMAGES / "install.sh"
INSIDE = Path(__file__).resolve().parents[1] / "engines" / "inside.py"
REPOSITORY = "longctx"
LABEL = "longctx.image"
_STAGE = re.compile(r"^FROM\s+(\S+)\s+AS\s+([\w-]+)\s*$", re.MULTILINE)
THIN = ("runner", "family")
"""The stages that the classic builder can make too."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One image to build: a stage of the Dockerfile with its arguments and named contexts."""

    tag: str
    stage: str
    labels: Mapping[str, str]
    arguments: Mapping[str, str] = field(default_factory=dict)
    contexts: Mapping[str, str] = field(default_factory=dict)
    """Folders, or ``docker-image://`` references, by name."""
    network: bool = False
    """Whether it fetches: it then gets the network, the index's and the CA's secrets."""


def stages(text: str) -> dict[str, str]:
    """Return the Dockerfile's stages by name, without comments: what follows a ``FROM … AS name`` line, that line included."""
    bare = "\n".join(line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    starts = list(_STAGE.finditer(bare))
    ends = [match.start() for match in starts[1:]] + [len(bare)]
    return {match[2]: bare[match.start() : end].strip() for match, end in zip(starts, ends, strict=True)}


def _text(*names: str) -> list[str]:
    found = stages(DOCKERFILE.read_text(encoding="utf-8"))
    return [found[name] for name in (names or [one for one in found if one not in THIN])]


def component(name: str) -> str:
    """Return a name as the engine takes it in an image's: small letters and digits, single separators between them."""
    return re.sub(r"[._-]{2,}", "-", re.sub(r"[^a-z0-9._-]", "-", name.lower())).strip("._-")


def python_tag(base: str) -> str:
    """Return the name of the image with Python and a compiler on top of ``base``."""
    return f"{REPOSITORY}/python:{digest([_text('python'), base])[:12]}"


def environment_tag(environment: Environment, device: DeviceKind, base: str, flash: str = "none") -> str:
    """Return the name of an environment's image. ``flash``: how flash-attn gets into it, none where it does not."""
    made_of = [_text(), INSTALL.read_text(encoding="utf-8"), INSIDE.read_text(encoding="utf-8"), environment.sha256, device, base]
    return f"{REPOSITORY}/{component(environment.spec.name)}:{device}-{digest([*made_of, flash != 'none'])[:12]}"


def family_tag(environment: str, family: str | None, device: DeviceKind, image: str, code: str) -> str:
    """Return the name of a family's image: an environment's image by id, and the hash of runner and methods."""
    name = component(f"{environment}-{family or 'runner'}")
    return f"{REPOSITORY}/{name}:{device}-{digest([_text(*THIN), image, code])[:12]}"


def thin_dockerfile(image: str) -> str:
    """Return the two last stages as one that both builders read: ``FROM`` the image, and copies from the plain context."""
    copies = [line for stage in _text(*THIN) for line in stage.splitlines() if not line.startswith("FROM ")]
    return "\n".join([f"FROM {image}", *(line.replace("--from=code ", "") for line in copies)]) + "\n"
