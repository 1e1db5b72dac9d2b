"""Host settings: where caches live, where wheels come from. One file, never part of a manifest or of a hash."""

import os
from pathlib import Path

from pydantic import Field, ValidationError

from .contracts.base import Contract
from .errors import UsageError

ENVIRONMENT = {
    "cache": "LONGCTX_CACHE", "runs": "LONGCTX_RUNS", "data": "LONGCTX_DATA",
    "base_cpu": "LONGCTX_BASE_CPU", "base_cuda": "LONGCTX_BASE_CUDA",
}  # fmt: skip
"""Variables that override the file."""


class Settings(Contract):
    """``~/.config/longctx/config.yaml``; every field has a default, the file may be absent."""

    cache: Path = Field(default=Path("~/.cache/longctx"), description="environments, models, staged code, token ids")
    runs: Path = Field(default=Path("runs"), description="where runs are kept; relative to the working folder")
    data: Path | None = Field(default=None, description="datasets; below the cache when absent")
    wheelhouse: Path | None = Field(
        default=None, description="folder of wheels, such as a CPU torch; $UV_FIND_LINKS or $PIP_FIND_LINKS when absent"
    )
    torch_index: str | None = Field(
        default=None, description="index that has torch's builds, where uv's own choice by device is out of reach"
    )
    certificates: Path | None = Field(default=None, description="CA bundle; $SSL_CERT_FILE when absent")
    proxy: str | None = Field(default=None, description="HTTP(S) proxy; the usual variables when absent")
    offline: bool = Field(default=False, description="never fetch: only what is cached or in the wheelhouse")
    base_cpu: str = Field(default="python:3.11-slim-bookworm", description="what CPU images start from: a Debian or Ubuntu image")
    base_cuda: str = Field(default="nvidia/cuda:13.0.1-base-ubuntu24.04", description="what CUDA images start from")
    flash_builder: str | None = Field(
        default=None,
        description="image with nvcc, such as nvidia/cuda:13.0.1-devel-ubuntu24.04, to compile flash-attn in (an hour or more)",
    )


def config_path() -> Path:
    """Return where the settings file is, or would be."""
    if named := os.environ.get("LONGCTX_CONFIG"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CONFIG_HOME", "~/.config")).expanduser() / "longctx" / "config.yaml"


def load_settings() -> Settings:
    """Read the settings file, if any, then the environment's overrides. Raises UsageError naming the file and the key."""
    path = config_path()
    values: dict[str, object] = {}
    if path.exists():
        import yaml

        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
            raise UsageError(f"{path}: {error}", "Mend or remove that file; `longctx config` shows what may stand in it.") from error
        if found is not None and not isinstance(found, dict):
            raise UsageError(f"{path}: it must hold `key: value` lines.", f"Allowed keys: {', '.join(Settings.model_fields)}.")
        values = {str(key): value for key, value in (found or {}).items()}
    for key, variable in ENVIRONMENT.items():
        if os.environ.get(variable):
            values[key] = os.environ[variable]
    if "wheelhouse" not in values:
        links = (os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS") or "").replace(",", " ").split()
        folders = [link for link in links if Path(link).is_dir()]
        if folders:
            values["wheelhouse"] = folders[0]
    if "certificates" not in values and os.environ.get("SSL_CERT_FILE"):
        values["certificates"] = os.environ["SSL_CERT_FILE"]
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path}: {key}: {first['msg']}", f"Allowed keys: {', '.join(Settings.model_fields)}.") from error
    cache = settings.cache.expanduser().absolute()
    paths = {key: value.expanduser() for key in ("runs", "wheelhouse", "certificates") if (value := getattr(settings, key)) is not None}
    return settings.model_copy(update={"cache": cache, "data": (settings.data or cache / "data").expanduser().absolute(), **paths})
