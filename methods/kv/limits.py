"""What is refused before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence

from runner.protocol import Prompt, TooLong


def refuse_too_long(batch: Sequence[Prompt], window: int | None, exact_new_tokens: int | None) -> None:
    """Raise TooLong for prompts that with their new tokens exceed the window (None: no limit), and ValueError for empty ones."""
    empty = [prompt.id for prompt in batch if not prompt.ids]
    if empty:
        raise ValueError(f"no tokens to answer in {', '.join(empty)}")
    if window is None:
        return
    needs = {prompt.id: len(prompt.ids) + (exact_new_tokens or prompt.max_new_tokens) for prompt in batch}
    long = [name for name, tokens in needs.items() if tokens > window]
    if long:
        told = ", ".join(f"{name} needs {needs[name]}" for name in long)
        raise TooLong(f"prompt and new tokens must fit the model's window of {window} tokens: {told}", long)
