"""Lends the host the model's tokenizer: counts tokens of texts, asked and answered through files.

The host puts ``requests/count/NNNN.json`` (``{"texts": [...]}``) in place by rename; the answer ``out/count/NNNN.json``
(``{"counts": [...]}``) appears by rename. A count is that of a whole prompt: special tokens as with ``bos: once``, no template. A file
``requests/count/stop`` ends the job once everything asked is answered.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

from .attempt import Attempt
from .emit import replace
from .ending import BadJob
from .prompting import Encoder

POLL = 0.005
"""Seconds between two looks: far below what tokenising a prompt takes."""
_ASKED = re.compile(r"^\d+\.json$")


def count(attempt: Attempt, tokenizer: Any) -> None:
    """Answer until told to stop. Raises Stopped on SIGTERM, BadJob for a question that is none."""
    attempt.phase = "count"
    box = attempt.job.inside("requests/count")
    answers = attempt.job.output("out/count")
    answers.mkdir(parents=True, exist_ok=True)
    encoder = Encoder(tokenizer, {"bos": "once"})
    done = {path.name for path in answers.iterdir()}
    while True:
        last = (box / "stop").exists()  # looked at first: what was asked before it is still answered
        for name in sorted(_asked(box) - done):
            attempt.stop.check()
            counts = [len(encoder.encode([{"role": "context", "text": text}]).ids) for text in _texts(box / name)]
            replace(answers / name, {"counts": counts})
            done.add(name)
            attempt.answered += 1
        attempt.stop.check()
        if last:
            return
        time.sleep(POLL)


def _asked(box: Path) -> set[str]:
    try:
        return {name for name in os.listdir(box) if _ASKED.match(name)}  # noqa: PTH208 - names are all that is needed, 200 times a second
    except FileNotFoundError:  # nothing asked yet
        return set()


def _texts(path: Path) -> list[str]:
    try:
        texts = json.loads(path.read_bytes())["texts"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadJob(f"count/{path.name} is not an object with texts") from error
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BadJob(f"count/{path.name}: texts must be a list of strings")
    return texts
