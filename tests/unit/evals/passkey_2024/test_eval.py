"""The 2024 passkey eval over made-up essays: parameters, requests, scores."""

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longctx.evals.base import BuildContext, DataMissing, ParameterError, Reference, Request
from longctx.evals.passkey_2024 import EVAL, material

Folder = Callable[..., Path]
Pairs = list[tuple[Request, Reference]]


def build(data: Path | None, name: str = "7digits", /, **params: Any) -> Pairs:
    return list(EVAL.build(name, EVAL.normalise(name, params), BuildContext(seed=0, data=data)))


def text_of(request: Request) -> str:
    return "".join(segment.text for segment in request.segments)


def keys(pairs: Pairs) -> list[str]:
    return [reference.answers[0] for _, reference in pairs]


def test_order_ids_keys_axes_and_clusters(folder: Folder) -> None:
    found = build(folder())
    assert [request.id for request, _ in found] == [f"w{w}-d{d}-r{r}" for w in (10, 20, 31) for d in ("0", "0.5", "1") for r in (0, 1)]
    assert keys(found)[:4] == ["1043321", "8196001", "3389083", "8637940"]
    assert [(type(r.axes["depth"]), r.axes["depth"]) for _, r in found[:6:2]] == [(int, 0), (float, 0.5), (int, 1)]
    assert {reference.cluster for _, reference in found} == {"w10", "w20", "w31"}
    assert all(request.max_new_tokens == 20 and reference.classes is None for request, reference in found)
    other = EVAL.build("7digits", EVAL.normalise("7digits", {}), BuildContext(seed=7, data=folder()))
    assert found == list(other)  # the manifest's seed has no say


def test_a_prompt_word_for_word(folder: Folder) -> None:
    found = {request.id: text_of(request) for request, _ in build(folder())}
    # Capital letters sort before | First essay: one two three. | Second essay here, with …
    assert (
        found["w10-d0-r0"]
        == "Find it.\n Key 1043321, 1043321. Capital\u00a0letters sort before First essay: one two\tthree.\nSecond \nKey? "
    )
    assert found["w10-d1-r0"].endswith("three.\nSecond Key 2654235, 2654235.  \nKey? ")
    assert found["w10-d1-r0"].startswith("Find it.\nCapital\u00a0letters")
    assert found["w10-d0.5-r0"].startswith("Find it.\nCapital\u00a0letters sort before First Key 3389083, 3389083. essay: one")


def test_segments_are_the_prompt_and_groups_really_share(folder: Folder) -> None:
    for position in ("prefix", "surfix"):
        by_group: dict[str, list[Request]] = {}
        for request, _ in build(folder(), instruction=position):
            assert all(segment.text for segment in request.segments)
            roles = [segment.role for segment in request.segments]
            assert roles[-1] == "question"
            assert roles[0 if position == "prefix" else -2] == "instruction"
            if request.group is not None:
                by_group.setdefault(request.group.id, []).append(request)
        assert len(by_group) == (9 if position == "prefix" else 6)  # at depth 0 nothing stands before the needle
        for members in by_group.values():
            first = members[0].group
            assert first is not None
            assert first.shared_segments >= 1
            assert len({member.segments[: first.shared_segments] for member in members}) == 1
            assert len({member.segments[first.shared_segments] for member in members}) == len(members) == 2


def test_surfix_and_wrappers(folder: Folder) -> None:
    data = folder()
    (request, reference), *_ = build(data, instruction="surfix", wrapper="double_quotes", style="char")
    (key,) = reference.answers
    assert key.isalpha()
    assert text_of(request).startswith(f' Key "{key}", "{key}". Capital')
    assert text_of(request).endswith("Second Find it.\n\nKey? ")
    assert f"Key `{key}`" in text_of(build(data, wrapper="code", style="char")[0][0])


def test_a_part_of_the_grid_has_the_grids_own_requests(folder: Folder) -> None:
    data = folder()
    whole = {pair[0].id: pair for pair in build(data)}
    part = build(data, lengths=[31, 10], depths=[1, 0.5], repeats=1)
    assert [request.id for request, _ in part] == ["w10-d0.5-r0", "w10-d1-r0", "w31-d0.5-r0", "w31-d1-r0"]
    assert all(whole[pair[0].id] == pair for pair in part)
    more = {pair[0].id: pair for pair in build(data, lengths={"words": [5, 10, 20, 31, 300]}, depths=[0, 0.25, 0.5, 1], repeats=3)}
    assert whole.items() <= more.items()
    assert len({reference.answers for _, reference in more.values()}) == len(more) == 60


def test_keys_in_sequence_follow_the_grid_that_is_asked_for(folder: Folder) -> None:
    data = folder()
    part = build(data, lengths=[31], depths=[1], keys="sequence", repeats=4)
    assert keys(part) == ["1043321", "8196001", "3389083", "8637940"]
    assert part[3][0].id == "w31-d1-r3-k3"
    assert keys(build(data, keys="sequence")) == keys(build(data))


def test_another_seed_gives_other_keys(folder: Folder) -> None:
    data = folder()
    assert not set(keys(build(data, target_length=9))) & set(keys(build(data)))
    assert not set(keys(build(data, seed=43))) & set(keys(build(data)))


def test_one_depth_by_grid_of_one_gives_both_ends(folder: Folder) -> None:
    data = folder(n_depths=1, n_background_lens=1, background_len_min=31, depth_num_iterations=1)
    assert [(r.axes["words"], r.axes["depth"]) for _, r in build(data, "quick")] == [(31, 0), (31, 1)]


def test_file_listing_is_taken_as_it_comes_and_recorded(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    data = folder()
    monkeypatch.setattr(os, "listdir", lambda path: ["b.txt", "stranger.txt", "B.txt", "a.txt"])
    listed = build(data, order="file-listing")
    assert text_of(listed[-1][0]).startswith("Find it.\nSecond essay here,\n\nwith two paragraphsCapital\u00a0letters sort")
    assert listed[0][1].axes["files"] == "b.txt B.txt a.txt"
    assert listed[0][1].axes["words"] == 10
    assert all("files" not in reference.axes for _, reference in build(data))


def test_cities(folder: Folder) -> None:
    data = folder()
    for request, reference in build(data, task="city", distractors=4, lengths=[100], depths=[0, 0.5, 1]):
        text = text_of(request)
        assert reference.classes is not None
        assert len(reference.classes) == 5
        assert reference.answers == reference.classes[:1]
        question = request.segments[-1].text
        city = question.removesuffix(" is ").rsplit(" of ", 1)[1]
        assert f"the number of {city} is {reference.answers[0]}." in text
        places = sorted((text.index(number), number) for number in reference.classes)
        before = int(4 * float(str(reference.axes["depth"])))
        assert [number for _, number in places].index(reference.answers[0]) == before
        assert [number for _, number in places if number != reference.answers[0]] == list(reversed(reference.classes[1:]))


def test_city_scores_know_the_distractors() -> None:
    reference = Reference(id="r", answers=("11",), classes=("11", "2223"), cluster="c")
    assert EVAL.score("7digits", reference, "it is 2223") == {
        "exact": 0, "partial": 0, "distraction_allowed": 1, "distraction_allowed_partial": 1,
    }  # fmt: skip
    assert EVAL.score("7digits", reference, "11")["distraction_allowed"] == 1
    assert EVAL.score("7digits", reference, "") == dict.fromkeys(EVAL.score("7digits", reference, "11"), 0)
    plain = Reference(id="r", answers=("11",), cluster="c")
    assert EVAL.score("7digits", plain, "1") == {"exact": 0, "partial": 0.5}


def test_size_with_and_without_the_data(folder: Folder, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    size = EVAL.size("7digits", EVAL.normalise("7digits", {}), nothing)
    assert (size.requests, size.least_tokens, size.max_new_tokens) == (None, None, None)
    params = EVAL.normalise("7digits", {"lengths": [64, 9], "depths": [0.5], "repeats": 3})
    size = EVAL.size("7digits", params, None)
    assert (size.requests, size.least_tokens, size.max_new_tokens) == (6, 64, None)
    data = folder()
    params = EVAL.normalise("7digits", {"repeats": 1})
    size = EVAL.size("7digits", params, data)
    built = build(data, repeats=1)
    assert (size.requests, size.max_new_tokens) == (len(built), 20) == (9, 20)
    assert size.least_tokens is not None
    assert size.least_tokens <= max(len(text_of(request).split()) for request, _ in built)
    assert not EVAL.needs_tokenizer("7digits", params)


def test_what_it_reads_is_all_there_and_decides(folder: Folder) -> None:
    data = folder()
    paths = EVAL.reads("quick", EVAL.normalise("quick", {}))
    assert len(paths) == 4
    assert all((data / path).is_file() for path in paths)
    for other in set(material.FILES.values()) - {material.FILES["quick"]}:
        (data / material.CONFIGS / other).unlink()
    assert build(data, "quick")


@pytest.mark.parametrize("path", [f"{material.CONFIGS}/{material.FILES['7digits']}", f"{material.ESSAYS}/a.txt"])
def test_a_missing_or_altered_file_is_named_with_the_command_that_mends_it(folder: Folder, path: str) -> None:
    data = folder()
    (data / path).write_bytes(b"something else")
    with pytest.raises(DataMissing, match="altered") as caught:
        build(data)
    assert path in str(caught.value)
    assert caught.value.command.startswith("longctx data fetch passkey")
    (data / path).unlink()
    with pytest.raises(DataMissing) as caught:
        build(data)
    assert path in str(caught.value)
    with pytest.raises(DataMissing) as caught:
        build(None)
    assert caught.value.command == "longctx data fetch passkey"


def test_requests_are_made_one_by_one(folder: Folder) -> None:
    made = EVAL.build("7digits", EVAL.normalise("7digits", {"repeats": 100_000}), BuildContext(seed=0, data=folder()))
    assert inspect.isgenerator(made)
    assert next(made)[0].id == "w10-d0-r0"


def test_normalising_twice_changes_nothing() -> None:
    for params in ({}, {"task": "city"}, {"lengths": [20, 10], "depths": [1, 0.5, 0], "repeats": 2, "order": "file-listing", "seed": 0}):
        once = EVAL.normalise("7digits", params)
        assert EVAL.normalise("7digits", once) == once
    assert EVAL.normalise("7digits", {"lengths": [20, 10]})["lengths"] == {"words": [10, 20]}
    assert EVAL.normalise("7digits", {"task": "city"})["distractors"] == 3


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"order": "random"}, ("order",)),
        ({"order": ["name"]}, ("order",)),
        ({"task": "cities"}, ("task",)),
        ({"style": "city"}, ("style",)),
        ({"wrapper": "quotes"}, ("wrapper",)),
        ({"instruction": "suffix"}, ("instruction",)),
        ({"keys": True}, ("keys",)),
        ({"seed": -1}, ("seed",)),
        ({"seed": "42"}, ("seed",)),
        ({"lengths": {"tokens": [512]}}, ("lengths", "tokens")),
        ({"lengths": {"words": []}}, ("lengths", "words")),
        ({"lengths": {}}, ("lengths", "words")),
        ({"lengths": {"letters": [1]}}, ("lengths", "letters")),
        ({"lengths": [512, 0]}, ("lengths", 1)),
        ({"lengths": 512}, ("lengths",)),
        ({"depths": [0, 1.5]}, ("depths", 1)),
        ({"depths": []}, ("depths",)),
        ({"repeats": 0}, ("repeats",)),
        ({"target_length": 0}, ("target_length",)),
        ({"max_new_tokens": 0}, ("max_new_tokens",)),
        ({"distractors": 1}, ("distractors",)),
        ({"task": "city", "distractors": 100}, ("distractors",)),
        ({"task": "city", "distractors": 10, "target_length": 1}, ("distractors",)),
        ({"length": [512]}, ("length",)),
    ],
)
def test_a_wrong_parameter_is_named_with_what_would_be_right(params: dict[str, Any], path: tuple[str | int, ...]) -> None:
    with pytest.raises(ParameterError) as caught:
        EVAL.normalise("7digits", params)
    assert caught.value.path == path
    assert caught.value.allowed


def test_its_code_is_what_decides() -> None:
    names = {path.name for path in EVAL.code()}
    assert names == {"__init__.py", "cities.py", "eval.py", "haystack.py", "keys.py", "material.py", "metrics.py", "options.py"}
