"""The sets of LongBench v1 (Bai et al., ACL 2024, arXiv 2308.14508): their groups, and the rules that differ between them."""

from dataclasses import dataclass
from typing import Literal

from ..sources import LONGBENCH_E_ROWS, LONGBENCH_ROWS

Group = Literal["single-doc", "multi-doc", "summarization", "few-shot", "synthetic", "code"]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One set."""

    name: str
    group: Group
    language: Literal["en", "zh", "code"] = "en"
    template: bool = True
    """Whether a chat template may be laid around the prompt: few-shot examples and code are to be continued, not answered."""
    newline_stops: bool = False
    """The last token of a newline ends the answer, which has at least one token before it."""


_ALL = (
    Dataset(name="narrativeqa", group="single-doc"),
    Dataset(name="qasper", group="single-doc"),
    Dataset(name="multifieldqa_en", group="single-doc"),
    Dataset(name="multifieldqa_zh", group="single-doc", language="zh"),
    Dataset(name="hotpotqa", group="multi-doc"),
    Dataset(name="2wikimqa", group="multi-doc"),
    Dataset(name="musique", group="multi-doc"),
    Dataset(name="dureader", group="multi-doc", language="zh"),
    Dataset(name="gov_report", group="summarization"),
    Dataset(name="qmsum", group="summarization"),
    Dataset(name="multi_news", group="summarization"),
    Dataset(name="vcsum", group="summarization", language="zh"),
    Dataset(name="trec", group="few-shot", template=False),
    Dataset(name="triviaqa", group="few-shot", template=False),
    Dataset(name="samsum", group="few-shot", template=False, newline_stops=True),
    Dataset(name="lsht", group="few-shot", language="zh", template=False),
    Dataset(name="passage_count", group="synthetic"),
    Dataset(name="passage_retrieval_en", group="synthetic"),
    Dataset(name="passage_retrieval_zh", group="synthetic", language="zh"),
    Dataset(name="lcc", group="code", language="code", template=False),
    Dataset(name="repobench-p", group="code", language="code", template=False),
)

DATASETS = {dataset.name: dataset for dataset in _ALL}
TASKS = (*LONGBENCH_ROWS, *(f"{name}_e" for name in LONGBENCH_E_ROWS))
"""All 21 sets, then LongBench-E's 13."""

GROUPS: dict[Group, tuple[str, ...]] = {
    group: tuple(dataset.name for dataset in _ALL if dataset.group == group) for group in dict.fromkeys(dataset.group for dataset in _ALL)
}
"""The six groups with their sets, Chinese ones included."""
BENCH2024 = tuple(dataset.name for dataset in _ALL if dataset.language != "zh")
"""The sixteen sets of the 2024 benchmark."""
BENCH2024_AVERAGE = tuple(name for name in BENCH2024 if name != "passage_count")
"""The fifteen sets of its LongBench average; group averages leave passage_count out as well."""

BUCKETS = ("0-4k", "4-8k", "8k+")


def dataset_of(task: str) -> Dataset:
    """Return the set that a task asks: ``qasper_e`` asks with qasper's prompt and rules."""
    return DATASETS[task] if task in DATASETS else DATASETS[task.removesuffix("_e")]


def bucket(length: int) -> str:
    """Return LongBench-E's range of a row's ``length``."""
    return BUCKETS[0] if length < 4000 else BUCKETS[1] if length < 8000 else BUCKETS[2]
