"""Keys as Python's generator gives them."""

import random

import pytest

from longctx.evals.passkey_2024.cities import CITIES
from longctx.evals.passkey_2024.keys import CANDIDATES, city_numbers, pass_key, target


def test_the_first_keys_of_seed_42() -> None:
    source = random.Random(42)
    draw = pass_key("int", 7)
    assert [draw(source).key for _ in range(4)] == ["1043321", "8196001", "3389083", "8637940"]
    long = pass_key("int", 64)(random.Random(42)).key
    assert long == "1043321819600133890838637940265423511615594078161849593103413164"


@pytest.mark.parametrize("style", CANDIDATES)
def test_a_target_has_its_length_and_characters(style: str) -> None:
    drawn = target(random.Random(1), style, 400)
    assert len(drawn) == 400
    assert set(drawn) == set(CANDIDATES[style])


def test_what_is_taken_is_drawn_again() -> None:
    taken = [str(digit) for digit in range(9)]
    assert target(random.Random(3), "int", 1, taken) == "9"


def test_cities_and_numbers_come_once() -> None:
    drawn = city_numbers("int", 1, 9, CITIES)(random.Random(5))
    cities, numbers = zip(*drawn.pairs, strict=True)
    assert sorted(numbers) == sorted("0123456789")
    assert len(set(cities)) == 10
    assert drawn.key == numbers[0]


def test_the_list_of_cities_has_each_once() -> None:
    assert len(set(CITIES)) == len(CITIES) == 100
    assert not [city for city in CITIES if any(city in other for other in CITIES if other != city)]
