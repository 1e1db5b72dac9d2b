"""Predictions that others published, with the scores that they published: ours are the same to two decimals.

They lie below ``$LONGCTX_DATA/longbench/pred/<model>/``: ``<task>.jsonl`` as LongBench's ``pred.py`` writes them, and ``result.json``.
"""

import json
import os
from pathlib import Path

import pytest

from longctx.orchestrator.elsewhere import score_file

pytestmark = pytest.mark.data


def test_every_published_file_scores_what_was_published(capsys: pytest.CaptureFixture[str]) -> None:
    folders = sorted(path.parent for path in (Path(os.environ["LONGCTX_DATA"]) / "longbench" / "pred").glob("*/result.json"))
    if not folders:
        pytest.skip("there are no published predictions in LONGCTX_DATA")
    different = []
    with capsys.disabled():
        print(f"\n{'model':24} {'task':22} {'n':>5} {'ours':>7} {'official':>9}")
        for folder in folders:
            official = json.loads((folder / "result.json").read_bytes())
            assert sorted(official) == sorted(path.stem for path in folder.glob("*.jsonl"))
            for task, expected in sorted(official.items()):
                found = score_file(f"longbench/{task}", folder / f"{task}.jsonl")
                different += [task] if found["score"] != expected else []
                print(f"{folder.name:24} {task:22} {found['n']:>5} {found['score']:>7.2f} {expected:>9.2f}")
    assert not different
