"""Registers every command; importing this module imports no command's own needs."""

from . import configure, data, diagnose, execute, images, inspect_, inventory, measure, worker

__all__ = ["configure", "data", "diagnose", "execute", "images", "inspect_", "inventory", "measure", "worker"]
