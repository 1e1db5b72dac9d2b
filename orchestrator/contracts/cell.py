"""``cell.json``: what a cell's folder holds, so that a later plan can tell without reading every response."""

from pydantic import Field

from .base import Contract, Count, Document, Sha256
from .outcome import Environment, Isolation


class Source(Contract):
    """One attempt that contributed to a cell."""

    run: str
    job: str
    attempt: int = Field(ge=1)
    engine: str
    isolation: Isolation
    responses: Count
    timings: Count = 0
    weights: Count | None = Field(default=None, description="bytes of the weights on the device")
    environment: Environment | None


class CellState(Document):
    """State of ``cells/<cell>/``. Written after its responses, so it never promises more than is there."""

    cell: str
    config_sha256: Sha256
    codes: tuple[Sha256, ...] = Field(description="code that made the responses; more than one after --accept-code")
    answered: Count
    covers_sha256: Sha256 = Field(description="of the sorted (id, request hash) pairs that are answered")
    errors: Count = Field(default=0, description="answered with finish 'error'")
    sources: tuple[Source, ...] = ()
