"""Names and settings become instances and turn back; what is unknown is refused in one line that names the nearest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import pytest

from isogrid.core.errors import InputError
from isogrid.core.registry import Registry, config_of, sources_of
from isogrid.sparsity import CRITERIA


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape(ABC):
    name: ClassVar[str]

    @abstractmethod
    def area(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Square(Shape):
    name: ClassVar[str] = "square"

    side: float
    corners: int = 4

    def __post_init__(self):
        if self.side <= 0:
            raise InputError("side", self.side, "a number > 0")

    def area(self):
        return self.side**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Point(Shape):
    name: ClassVar[str] = "point"

    def area(self):
        return 0.0


SHAPES: Registry[Shape] = Registry("shape", Shape, Square, Point)
OWN = """
from dataclasses import dataclass
from typing import ClassVar
from isogrid.sparsity import Criterion

@dataclass(frozen=True, slots=True, kw_only=True)
class Power(Criterion):
    name: ClassVar[str] = "power"
    exponent: float = 1.0
    def score(self, model, batch, loss): return {"w": 3 * self.exponent}

class Abstract(Criterion): pass
class Other: pass
thing = 3
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def test_it_is_a_mapping_of_its_rows():
    assert dict(SHAPES) == {"square": Square, "point": Point}
    assert len(SHAPES) == 2


@pytest.mark.parametrize(
    "config", ["point", {"name": "point"}, {"name": "square", "side": 2.0}, {"name": "square", "side": 2.0, "corners": 5}]
)
def test_what_is_made_turns_back_and_forth(config):
    made = SHAPES.make(config)
    assert SHAPES.make(config_of(made)) == made
    assert SHAPES.make(SHAPES.plain(config)) == made
    assert SHAPES.plain(SHAPES.plain(config)) == SHAPES.plain(config)
    assert SHAPES.make(made) is made


def test_defaults_are_written_out_and_a_name_alone_stays_one():
    assert SHAPES.plain({"name": "square", "side": 1.0}) == {"name": "square", "side": 1.0, "corners": 4}
    assert SHAPES.plain({"name": "point"}) == "point"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("squar", "shape: got squar; accepted: .*did you mean square"),
        (None, "shape: got None"),
        (["point"], r"shape: got \['point'\]"),
        ({"side": 1}, "shape: got None"),
        ({"name": "square", "sid": 1}, r"shape square: got sid; accepted: corners, side \(did you mean side"),
        ({"name": "square"}, r"shape square\.side: got nothing"),
        ({"name": "square", "side": -1}, "side: got -1"),
        ({"name": "square", "side": "wide"}, "shape square: .*right types"),
        ({"name": "point", "side": 1}, "shape point: got side; accepted: nothing beside the name"),
    ],
)
def test_what_cannot_be_made_is_one_line(config, said):
    with pytest.raises(InputError, match=said) as caught:
        SHAPES.make(config)
    assert "\n" not in str(caught.value)
    if "wide" not in str(config):  # checked in `plain`, too, but for values
        with pytest.raises(InputError):
            SHAPES.plain(config)


def test_the_field_that_a_caller_names_is_the_one_in_the_message():
    with pytest.raises(InputError, match=r"^models\.0\.shape: got "):
        SHAPES.make("squar", "models.0.shape")


def test_a_class_of_ones_own_works_by_name(own):
    name = f"{own}:Power"
    config = {"name": name, "exponent": 2.0}
    made = CRITERIA.make(config)
    assert made.score(None, None, None) == {"w": 6}
    assert config_of(made) == CRITERIA.plain(config) == config
    assert CRITERIA.plain(name) == name
    nested = {"name": "progressive", "inside": [config, "magnitude"], "rate": 1}
    before = sources_of(nested)
    assert list(before) == [name]
    own.write_text(OWN.replace("3 *", "4 *"))
    assert sources_of(nested)[name] != before[name]
    assert CRITERIA.make(config).score(None, None, None) == {"w": 8}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Powre", "did you mean .*Power"),
        ("Other", r"the class Other; accepted: a subclass of isogrid\.sparsity\.Criterion"),
        ("thing", r"a int; accepted: a subclass of isogrid\.sparsity\.Criterion"),
        ("Abstract", "without score"),
    ],
)
def test_what_is_no_class_of_the_kind_is_one_line(own, name, said):
    with pytest.raises(InputError, match=said):
        CRITERIA.make(f"{own}:{name}")
    with pytest.raises(InputError, match=r"criterion .*Power: got exponet; accepted: exponent \(did you mean"):
        CRITERIA.make({"name": f"{own}:Power", "exponet": 1})
