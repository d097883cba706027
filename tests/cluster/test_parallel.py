"""The same work on many items: results in order, and errors that read the same from two workers as from one."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ray import cloudpickle

from cluster.parallel import map_items

# The workers cannot import this file; its functions travel as code.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def process(number: int) -> int:
    return os.getpid()


class OddError(Exception):
    """Pickle makes it again with one argument of two."""

    def __init__(self, place: str, why: str) -> None:
        super().__init__(f"{place}: {why}")


def square(number: int) -> int:
    return number * number


def missing_file(number: int) -> str:
    return Path(f"/nowhere/{number}").read_text()


def undecodable(number: int) -> str:
    return (b"caf\xe9" * number).decode()


def wrong_value(number: int) -> int:
    raise ValueError(f"part-{number}.txt, line 3: found 'x', must be a number")


def odd(number: int) -> int:
    raise OddError(f"part-{number}", "odd")


def raised(function: Callable[[int], object], items: list[int]) -> Exception:
    with pytest.raises((OSError, ValueError, RuntimeError, OddError)) as caught:
        map_items(function, items)
    return caught.value


def test_results_come_in_the_order_of_the_items_and_each_is_told_once(ray_cluster: None) -> None:
    told: list[int] = []
    assert map_items(square, list(range(5)), on_done=told.append) == [0, 1, 4, 9, 16]
    assert sorted(told) == [0, 1, 4, 9, 16]


def test_processes_stay_from_item_to_item_with_what_they_know(ray_cluster: None) -> None:
    assert len(set(map_items(process, list(range(12))))) <= 4  # two cores; two more should any have to be replaced


@pytest.mark.parametrize("function", [missing_file, undecodable, wrong_value])
def test_an_error_reads_the_same_from_two_workers_as_from_one(
    function: Callable[[int], object], ray_cluster: None
) -> None:
    alone, among_others = raised(function, [1]), raised(function, [1, 1])
    assert type(among_others) is type(alone)
    assert str(among_others) == str(alone)
    assert function.__name__ in among_others.__notes__[0]  # where it happened


def test_an_error_that_cannot_travel_arrives_by_its_name_and_text(ray_cluster: None) -> None:
    found = raised(odd, [1, 1])
    assert type(found) is RuntimeError
    assert str(found) == "OddError: part-1: odd"
