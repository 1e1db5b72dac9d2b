"""Parameter checks that evals share."""

import pytest

from longctx.evals import parameters
from longctx.evals.base import ParameterError


def test_values_that_are_right_come_back() -> None:
    assert parameters.integer(3, ("a",), 1, 3) == 3
    assert parameters.number(1, ("a",), 0, 1) == 1.0
    assert parameters.integers([3, 1], ("a",), 1, 3) == [1, 3]
    assert parameters.numbers((0.5, 0), ("a",), 0, 1) == [0.0, 0.5]
    parameters.known({"a": 1}, ("a", "b"))


def test_minus_zero_is_written_as_zero() -> None:
    assert repr(parameters.number(-0.0, ("a",), 0, 1)) == "0.0"


@pytest.mark.parametrize("value", [True, "1", 1.0, None, 0, 4])
def test_what_is_no_whole_number_in_range(value: object) -> None:
    with pytest.raises(ParameterError) as caught:
        parameters.integer(value, ("a", 1), 1, 3)
    assert caught.value.path == ("a", 1)
    assert caught.value.allowed == "a whole number from 1 to 3"
    assert repr(value) in caught.value.message


@pytest.mark.parametrize("value", [False, "1", None, -0.1, float("inf"), float("nan")])
def test_what_is_no_number_in_range(value: object) -> None:
    with pytest.raises(ParameterError, match="not allowed"):
        parameters.number(value, ("a",), 0, 1)


@pytest.mark.parametrize("value", [[], 3, "12", {}, None])
def test_what_is_no_list(value: object) -> None:
    with pytest.raises(ParameterError) as caught:
        parameters.integers(value, ("a",), 1, 3)
    assert caught.value.path == ("a",)


def test_twice_the_same_names_the_second() -> None:
    with pytest.raises(ParameterError, match="twice") as caught:
        parameters.integers([2, 1, 2], ("a",), 1, 3)
    assert caught.value.path == ("a", 2)


def test_an_unknown_key_comes_with_the_known_ones() -> None:
    with pytest.raises(ParameterError) as caught:
        parameters.known({"lenght": 1}, ("length", "depth"), ("inner",))
    assert caught.value.path == ("inner", "lenght")
    assert caught.value.options == ("length", "depth")
