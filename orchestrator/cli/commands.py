"""Registers every command; importing this module imports no command's own needs."""

from . import configure, execute, inspect_, inventory, measure, worker

__all__ = ["configure", "execute", "inspect_", "inventory", "measure", "worker"]
