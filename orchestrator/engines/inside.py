"""Run by an environment's own Python: imports what it must have, and prints what it holds as one line of JSON.

Python writes byte code meanwhile: of what jobs import, in seconds, where compiling whole packages takes a minute.

Standard library only, Python 3.9; it must not import longctx. usage: inside.py MODULE...
"""

import hashlib
import importlib
import importlib.metadata
import json
import platform
import sys
from collections.abc import Sequence
from typing import Optional


def torch_record() -> Optional[str]:  # noqa: UP045
    """SHA-256 over the lines of torch's RECORD for files of the package itself.

    Left out is what differs between two installs of one wheel: scripts (they name the folder), byte code and installers' notes.
    """
    try:
        text = importlib.metadata.distribution("torch").read_text("RECORD")
    except importlib.metadata.PackageNotFoundError:
        return None
    if text is None:
        return None
    kept = [line for line in text.splitlines() if line and not line.startswith("..") and ".dist-info/" not in line and ".pyc," not in line]
    return hashlib.sha256("\n".join(sorted(kept)).encode()).hexdigest()


def packages() -> dict[str, str]:
    """Versions by lower-case name. Of two installs of one package the first on the path counts: that is the one which imports."""
    held: dict[str, str] = {}
    for found in importlib.metadata.distributions():
        name, version = found.metadata["Name"], found.version
        if name and version:  # what a failed install left has neither
            held.setdefault(name.lower(), version)
    return dict(sorted(held.items()))


def main(modules: Sequence[str]) -> int:
    """Print versions, or the first module that does not import."""
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever an import raises is the answer
            print(json.dumps({"failed": name, "error": f"{type(error).__name__}: {error}"}))
            return 1
    torch = sys.modules.get("torch")
    answer = {
        "python": platform.python_version(),
        "packages": packages(),
        "torch_record_sha256": torch_record(),
        "torch_cuda": torch.version.cuda if torch is not None else None,
    }
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
