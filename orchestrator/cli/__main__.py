"""``python -m longctx.orchestrator.cli``."""

from . import main

main()
