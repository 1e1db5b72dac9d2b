"""What an answer to a LongBench task is worth: as the original scores it, and beside that as it would be scored today.

``score`` is the headline and equals upstream's metric of 2023 bit for bit, quirks included, whatever else is installed and however deep the
caller stands; the other names are the same idea without the quirks. All are 0 … 1, the best over a row's answers, higher is better.

Nothing here is upstream's code: each module states the rule that it follows.
"""

import difflib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from . import classification, code, f1, numbers, rouge
from .metric import Metric

FIRST_LINE = frozenset({"trec", "triviaqa", "samsum", "lsht"})
"""Few-shot tasks: a model goes on with the next example, so only the first line is the answer."""

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "narrativeqa": f1.ENGLISH,
        "qasper": f1.ENGLISH,
        "multifieldqa_en": f1.ENGLISH,
        "multifieldqa_zh": f1.CHINESE,
        "hotpotqa": f1.ENGLISH,
        "2wikimqa": f1.ENGLISH,
        "musique": f1.ENGLISH,
        "dureader": rouge.CHINESE,
        "gov_report": rouge.ENGLISH,
        "qmsum": rouge.ENGLISH,
        "multi_news": rouge.ENGLISH,
        "vcsum": rouge.CHINESE,
        "trec": classification.CLASSIFICATION,
        "triviaqa": f1.ENGLISH,
        "samsum": rouge.ENGLISH,
        "lsht": classification.CLASSIFICATION,
        "passage_retrieval_en": numbers.RETRIEVAL,
        "passage_count": numbers.COUNT,
        "passage_retrieval_zh": numbers.RETRIEVAL_ZH,
        "lcc": code.SIMILARITY,
        "repobench-p": code.SIMILARITY,
    }
)
"""By set of LongBench v1; a task of LongBench-E (``qasper_e``) is scored as its set."""


def metric_of(task: str) -> Metric:
    """Return the metric of ``qasper`` or ``qasper_e``. Raises LookupError with the nearest spelling."""
    name = task.removesuffix("_e")
    if name not in METRICS:
        close = difflib.get_close_matches(name, METRICS, n=1)
        near = f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(METRICS)}"
        raise LookupError(f"LongBench has no task {task!r}{near}")
    return METRICS[name]


def score(task: str, text: str, answers: Sequence[str], classes: Sequence[str] | None) -> dict[str, float]:
    """Score one prediction: ``score`` as upstream does, and the clean metrics beside it; the same keys for every text of a task.

    Each is the best over ``answers`` (0 if there are none). ``classes`` are those of trec and lsht. Raises LookupError for an unknown
    task, ValueError for a reference that cannot be scored against (no classes, no number in it), and ImportError, saying what to install,
    if a Chinese task is scored without jieba.
    """
    metric = metric_of(task)
    if task.removesuffix("_e") in FIRST_LINE:
        text = text.lstrip("\n").partition("\n")[0]
    found = [metric.score(text, answer, classes) for answer in answers]
    return {name: max((0.0, *(values[place] for values in found))) for place, name in enumerate(metric.names)}
