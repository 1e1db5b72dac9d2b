"""From a prompt template and a row to segments whose concatenation is exactly ``template.format(**row)``."""

from collections.abc import Mapping
from string import Formatter
from typing import Any

from ..base import Role, Segment


def segments(template: str, row: Mapping[str, Any]) -> tuple[Segment, ...]:
    """Return the prompt in segments: instruction, context, question, answer prefix, as far as the template has them.

    What stands before ``{context}`` is the instruction, and what stands after it the question. If the template ends in fixed text, the
    last line of that is the answer prefix: it comes after the question, so a method that has not seen the question has not seen it
    either. Only the template is looked at: braces in a row's text mean nothing. Raises KeyError for a field that the row lacks.
    """
    parts: list[tuple[str | None, str]] = []  # (the field's name, or None for fixed text; the text)
    formatter = Formatter()
    for literal, name, spec, conversion in formatter.parse(template):
        if literal and parts and parts[-1][0] is None:  # an escaped brace cuts fixed text in two
            parts[-1] = (None, parts[-1][1] + literal)
        elif literal:
            parts.append((None, literal))
        if name is not None:
            value, _ = formatter.get_field(name, (), row)
            value = formatter.convert_field(value, conversion)
            parts.append((name, formatter.format_field(value, formatter.vformat(spec or "", (), row))))
    found: list[tuple[Role, str]] = []
    context = next((place for place, (name, _) in enumerate(parts) if name == "context"), None)
    for place, (name, text) in enumerate(parts):
        if place == context:
            found.append(("context", text))
        elif name is None and place == len(parts) - 1 and context is not None:
            found += _tail(text)
        else:
            # A question may also stand before the text that it is about.
            found.append(("question" if name is not None or (context is not None and place > context) else "instruction", text))
    return _joined(found)


def _tail(text: str) -> list[tuple[Role, str]]:
    """Divide the fixed text at the end before its last line that is not blank."""
    border = text.rstrip("\n").rfind("\n") + 1
    return [("question", text[:border]), ("answer_prefix", text[border:])]


def _joined(parts: list[tuple[Role, str]]) -> tuple[Segment, ...]:
    """Join neighbours of one role, and leave out what is empty, but for the context: that there is none is worth knowing."""
    made: list[tuple[Role, str]] = []
    for role, text in parts:
        if made and made[-1][0] == role:
            made[-1] = (role, made[-1][1] + text)
        elif text or role == "context":
            made.append((role, text))
    return tuple(Segment(role=role, text=text) for role, text in made)
