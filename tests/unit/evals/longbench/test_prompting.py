"""Segments: their concatenation is the formatted template, whatever a row holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longctx.evals.longbench.prompting import segments


def split(template: str, **row: object) -> list[tuple[str, str]]:
    found = segments(template, row)
    assert "".join(segment.text for segment in found) == template.format(**row)
    return [(segment.role, segment.text) for segment in found]


CASES = {
    "question and prefix": (
        "Read.\n\nStory: {context}\n\nNow answer.\n\nQuestion: {input}\n\nAnswer:",
        [
            ("instruction", "Read.\n\nStory: "),
            ("context", "C"),
            ("question", "\n\nNow answer.\n\nQuestion: Q\n\n"),
            ("answer_prefix", "Answer:"),
        ],
    ),
    "a blank at the end": (
        "R {context}\n{input}\n\nHow to answer.\n\nThe answer is: ",
        [("instruction", "R "), ("context", "C"), ("question", "\nQ\n\nHow to answer.\n\n"), ("answer_prefix", "The answer is: ")],
    ),
    "a question at the end": ("R\n\n{context}\n{input}", [("instruction", "R\n\n"), ("context", "C"), ("question", "\nQ")]),
    "no question": (
        "R.\n{context}\n\nNow sum up.\n\nSummary:",
        [("instruction", "R.\n"), ("context", "C"), ("question", "\n\nNow sum up.\n\n"), ("answer_prefix", "Summary:")],
    ),
    "code": ("R. \n{context}{input}Next:\n", [("instruction", "R. \n"), ("context", "C"), ("question", "Q"), ("answer_prefix", "Next:\n")]),
    "code without a question": ("R. \n{context}Next:\n", [("instruction", "R. \n"), ("context", "C"), ("answer_prefix", "Next:\n")]),
    "a question before the text": (
        "Look for {input} here: {context}\nDone?\n",
        [
            ("instruction", "Look for "),
            ("question", "Q"),
            ("instruction", " here: "),
            ("context", "C"),
            ("question", "\n"),
            ("answer_prefix", "Done?\n"),
        ],
    ),
    "nothing around": ("{context}", [("context", "C")]),
    "no context": ("Just {input}!", [("instruction", "Just "), ("question", "Q"), ("instruction", "!")]),
    "escaped braces": ("{{x}} {context}\n{{A}}", [("instruction", "{x} "), ("context", "C"), ("question", "\n"), ("answer_prefix", "{A}")]),
    "only newlines at the end": ("{context}\n\n", [("context", "C"), ("answer_prefix", "\n\n")]),
    "the context twice": ("{context}|{context}|", [("context", "C"), ("question", "|C"), ("answer_prefix", "|")]),
    "a format and a conversion": ("{context!r:>6}|{length:04d}", [("context", "   'C'"), ("question", "|0007")]),
}


@pytest.mark.parametrize("case", CASES)
def test_roles_follow_from_the_template(case: str) -> None:
    template, expected = CASES[case]
    assert split(template, context="C", input="Q", length=7) == expected


@pytest.mark.parametrize("text", ["{input}", "{context}", "{0} {} {{ }} {unknown!r:>{w}}", "", "\n\nAnswer:", "{"])
def test_braces_in_a_row_mean_nothing(text: str) -> None:
    template = "I {context}\nQ: {input}\nA:"
    assert ("context", text) in split(template, context=text, input="{context}")
    found = split(template, context="c", input=text)
    assert found[1:] == [("context", "c"), ("question", f"\nQ: {text}\n"), ("answer_prefix", "A:")]


@given(
    st.lists(st.sampled_from(["{context}", "{input}", "{{", "}}", "word", "\n", "\n\n", "Answer:", " "]), max_size=12),
    st.text(max_size=20),
    st.text(max_size=20),
)
def test_nothing_is_lost_between_segments(parts: list[str], context: str, question: str) -> None:
    found = split("".join(parts), context=context, input=question)
    assert all(text for role, text in found if role != "context")


def test_an_empty_context_is_still_a_segment() -> None:
    assert split("I {context}", context="", input="") == [("instruction", "I "), ("context", "")]


def test_a_field_that_the_row_lacks_is_named() -> None:
    with pytest.raises(KeyError, match="title"):
        segments("{title} {context}", {"context": "C"})
