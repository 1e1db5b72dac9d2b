"""Which class a prediction names: 1 ÷ the number of classes that it could mean, if the right one is among them.

Classes whose name is part of the right class's name cannot help being in the text with it, and are taken out. Upstream takes them out of
the very list that it walks along, so that the candidate after each removal is never looked at: it stays although it is part of the right
name, and lowers the score. ``score`` does so too; ``classes`` takes them all out.
"""

from collections.abc import Sequence

from .metric import Metric


def compatible(prediction: str, answer: str, classes: Sequence[str]) -> float:
    """Score with the candidate after each removal skipped."""
    left = _named(prediction, classes)
    place = 0
    while place < len(left):
        name = left[place]
        if _part(name, answer):
            left.remove(name)  # the first of that name, as upstream; what follows moves up and is passed over
        place += 1
    return _worth(left, answer)


def clean(prediction: str, answer: str, classes: Sequence[str]) -> float:
    """Score with every part of the right name taken out."""
    return _worth([name for name in _named(prediction, classes) if not _part(name, answer)], answer)


def _named(prediction: str, classes: Sequence[str]) -> list[str]:
    return [name for name in classes if name in prediction]


def _part(name: str, answer: str) -> bool:
    return name != answer and name in answer


def _worth(left: Sequence[str], answer: str) -> float:
    return 1.0 / len(left) if answer in left else 0.0


def _score(prediction: str, answer: str, classes: Sequence[str] | None) -> tuple[float, float]:
    if classes is None:
        raise ValueError("this task needs the list of all classes, and there is none")
    return compatible(prediction, answer, classes), clean(prediction, answer, classes)


CLASSIFICATION = Metric(names=("score", "classes"), score=_score)
