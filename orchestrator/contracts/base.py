"""What all contracts share: frozen, no unknown key, a schema version, and the common field types."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""Lower-case hexadecimal SHA-256."""

RequestId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._=@+-]{0,127}$")]
"""Identifies a request inside its task; the same for every model and method."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,95}$")]
"""A name a person may give: a model, a method, a run. Safe as one path component."""

TaskName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""``eval/task``, such as ``passkey/default``."""

RelativePath = Annotated[str, StringConstraints(max_length=400, pattern=r"^[^/\x00\\.][^/\x00\\]*(/[^/\x00\\.][^/\x00\\]*)*$")]
"""A path below the root that a job sees: never absolute, no component that starts with a dot."""

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Bytes = Annotated[int, Field(ge=0)]

Scalar = bool | int | float | str | None


class Contract(BaseModel):
    """A frozen record that accepts no unknown key."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class Document(Contract):
    """A whole file, or one line of a JSON-lines file."""

    schema_version: Literal[1] = 1
