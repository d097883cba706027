"""What makes two stages the same stage."""

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_stages import stage

from pipeline.fingerprint import diff, fingerprint, make_identity


def identity(made, **needs: str) -> dict[str, Any]:
    return make_identity(made, needs=needs, sources=[])


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, kw_only=True)
class Holder:
    value: Any


def holding(value: Any) -> dict[str, Any]:
    return identity(replace(stage("a"), config=Holder(value=value)))


def test_the_same_config_is_the_same_stage():
    assert fingerprint(identity(stage("a", text="x"))) == fingerprint(identity(stage("a", text="x")))


@pytest.mark.parametrize(
    "other",
    [
        stage("b"),
        stage("a", text="b"),
        stage("a", numbers=(2, 1)),
        stage("a", rate=1e-3 + 1e-18),
        stage("a", version=2),
    ],
    ids=["name", "text", "order of a list", "last bit of a number", "version"],
)
def test_anything_that_decides_the_result_makes_another_stage(other):
    assert fingerprint(identity(stage("a"))) != fingerprint(identity(other))


def test_another_result_of_a_need_makes_another_stage():
    made = stage("b", needs=("a",))
    assert fingerprint(identity(made, a="1")) != fingerprint(identity(made, a="2"))


def test_other_raw_files_make_another_stage():
    one, two = (
        make_identity(stage("a"), needs={}, sources=[{"path": "x.txt", "size": 3, "sha256": text}])
        for text in ("1", "2")
    )
    assert fingerprint(one) != fingerprint(two)


def test_resources_do_not_affect_identity():
    assert identity(replace(stage("a"), num_cpus=7, accelerated=True)) == identity(stage("a"))


def test_the_fingerprint_never_changes_by_itself():
    """A change here makes every finished stage of every user new: raise versions on purpose only."""
    config = Holder(value={"text": "é", "numbers": (3, 5e-4, None, True), "colour": Colour.RED})
    made = replace(stage("a", needs=("z",)), config=config)
    assert fingerprint(identity(made, z="0123456789abcdef")) == "59f9deb6d7d8f52b"


def test_the_order_of_a_mapping_means_nothing():
    assert fingerprint(holding({"a": 1, "b": 2})) == fingerprint(holding({"b": 2, "a": 1}))


def test_an_enum_is_its_value():
    assert holding(Colour.RED) == holding("red")


@pytest.mark.parametrize(
    "value",
    [{1, 2}, Path("x"), lambda: 0, np.float32(1), np.zeros(2), object(), b"x", {1: "a"}],
    ids=lambda v: type(v).__name__,
)
def test_values_without_a_stable_form_are_refused_with_their_place(value):
    with pytest.raises(TypeError, match=r"config\.value"):
        holding(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(value):
    with pytest.raises(ValueError, match=r"config\.value\[0\] is"):
        holding([value])


def test_a_difference_is_told_field_by_field():
    old = identity(stage("a", text="x"))
    new = identity(stage("a", text="y", numbers=(1, 3), version=2))
    assert diff(old, new) == ['a.text: "x" -> "y"', "a.numbers[1]: 2 -> 3", "version of a: 1 -> 2"]


def test_a_difference_names_the_need_that_changed():
    made = stage("b", needs=("a",))
    assert diff(identity(made, a="1"), identity(made, a="2")) == ["needs a 2 instead of 1"]


def test_a_difference_of_raw_files_is_told_by_file_and_in_few_lines():
    def of(files: dict[str, str]) -> dict[str, Any]:
        sources = [{"path": path, "size": 1, "sha256": text} for path, text in files.items()]
        return make_identity(stage("a"), needs={}, sources=sources)

    old = of({"kept": "1", "gone": "1", "changed": "1"})
    new = of({"kept": "1", "changed": "2", "added": "1"})
    assert diff(old, new) == ["gone is gone", "added is new", "changed has another content"]
    many = of({f"file-{number}": "1" for number in range(10)})
    assert diff(of({}), many)[-1] == "and 7 more input files differ"
