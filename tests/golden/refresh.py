"""Writes the golden examples anew after a contract gained a field with a default. Look at the difference before you commit it.

Run as ``python tests/golden/refresh.py``. An example that the contract refuses is named and left alone: mend it by hand.
"""

import sys
from pathlib import Path

from pydantic import ValidationError

from longctx.orchestrator import schema

FOLDER = Path(__file__).parent


def refresh(path: Path) -> str | None:
    """Rewrite one file; return why it cannot be."""
    adapter = schema.adapter(path.stem)
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".jsonl":
            written = "".join(adapter.dump_json(adapter.validate_json(line)).decode() + "\n" for line in text.splitlines())
        else:
            written = adapter.dump_json(adapter.validate_json(text), indent=1).decode() + "\n"
    except ValidationError as error:
        return f"{path}: {error}"
    path.write_text(written, encoding="utf-8")
    return None


if __name__ == "__main__":
    wrong = [problem for path in sorted(FOLDER.glob("*.json*")) if (problem := refresh(path))]
    sys.exit("\n".join(wrong) or None)
