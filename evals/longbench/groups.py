"""Averages over sets, as published ones are made: the 2024 benchmark's six groups and its LongBench average, and LongBench-E's.

``passage_count`` is in none of the first seven: no model of that benchmark could do it. Chinese sets are in none either. LongBench-E's
average is that of its 13 sets, each the mean of its three ranges of length.
"""

from ..base import Average
from .datasets import BENCH2024_AVERAGE, BUCKETS, GROUPS, TASKS

AVERAGES = (
    *(
        Average(name=group, tasks=tuple(name for name in names if name in BENCH2024_AVERAGE))
        for group, names in GROUPS.items()
    ),
    Average(name="LongBench", tasks=BENCH2024_AVERAGE),
    Average(name="LongBench-E", tasks=tuple(task for task in TASKS if task.endswith("_e")), axis="bucket", values=BUCKETS),
)  # fmt: skip
"""The order is that of tables."""
