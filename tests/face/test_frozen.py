"""Records under `@frozen`: what they share with frozen dataclasses, and what they do not."""

import copy
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from functools import cached_property
from inspect import signature
from typing import Any

import pytest

from em_pyro.records.frozen import frozen


@frozen
class Point:
    """Two numbers, and what is made of them."""

    x: float
    y: float = 2.0
    seen: list[float] = field(default_factory=list, repr=False)
    memory: dict[str, float] = field(default_factory=dict, init=False, repr=False)
    scale: float = field(default=1.0, kw_only=True)

    @cached_property
    def total(self) -> float:
        """Their sum."""
        return self.x + self.y


@frozen
class Solid(Point):
    """A point with one number more, and what is worked out at once."""

    z: float = 0.0

    def __post_init__(self) -> None:
        """Note down the height."""
        self.seen.append(self.z)


@dataclass(frozen=True, eq=False)
class Oracle:
    """The same as `Point`, as `dataclasses` makes it."""

    x: float
    y: float = 2.0
    seen: list[float] = field(default_factory=list, repr=False)
    memory: dict[str, float] = field(default_factory=dict, init=False, repr=False)
    scale: float = field(default=1.0, kw_only=True)


CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((1.0,), {}),
    ((1.0, 3.0, [4.0]), {"scale": 5.0}),
    ((), {"y": 1.0, "x": 0.0}),
]


@pytest.mark.parametrize(("args", "kwargs"), CALLS)
def test_fields_are_those_of_a_dataclass(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Values, defaults, what is made anew for each, the signature and the representation."""
    ours, theirs = Point(*args, **kwargs), Oracle(*args, **kwargs)
    assert {f.name: getattr(ours, f.name) for f in fields(ours)} == {
        f.name: getattr(theirs, f.name) for f in fields(theirs)
    }
    assert repr(ours) == repr(theirs).replace("Oracle", "Point")
    assert [str(one) for one in signature(Point).parameters] == [str(one) for one in signature(Oracle).parameters]
    assert Point.__init__.__annotations__.keys() == Oracle.__init__.__annotations__.keys()


@pytest.mark.parametrize("made", [Point, Oracle])
@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), ((1.0, 2.0, [], 3.0), {}), ((1.0,), {"memory": {}}), ((1.0,), {"depth": 1.0})]
)
def test_wrong_arguments_are_refused(made: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """One that is missing, one too many by place, one that is no argument, one of no field."""
    with pytest.raises(TypeError, match=r"__init__\(\)"):
        made(*args, **kwargs)


def test_nothing_is_changed() -> None:
    """No field is written to or taken away, and none is added; what is worked out once is kept."""
    point = Solid(1.0, z=3.0)
    for name in ("x", "memory", "depth", "total"):
        with pytest.raises(FrozenInstanceError, match=name):
            setattr(point, name, 0.0)
    with pytest.raises(FrozenInstanceError, match="y"):
        del point.y
    assert point.total == 3.0
    assert point.__dict__["total"] == 3.0
    assert point.seen == [3.0]


def test_copies() -> None:
    """Another one with some fields replaced, a pickle and a copy hold what the first one holds, and equal it not."""
    point = Solid(1.0, z=3.0)
    for other in (replace(point, seen=[]), pickle.loads(pickle.dumps(point)), copy.copy(point), copy.deepcopy(point)):
        assert type(other) is Solid
        assert repr(other) == repr(point)
        assert other != point
    assert replace(point, x=2.0).x == 2.0
    assert Point(1.0).seen is not Point(1.0).seen
    assert hash(point) == object.__hash__(point)


def test_own_representation_stands() -> None:
    """A class that says itself how it is shown is shown so; one that holds itself is shown once."""

    @frozen
    class Shown:
        """One that says it."""

        held: list[Any] = field(default_factory=list)

        def __repr__(self) -> str:
            """A word."""
            return "shown"

    @frozen
    class Around(Shown):
        """One that does not."""

    around = Around()
    around.held.append(around)
    assert repr(Shown()) == "shown"
    assert repr(around).endswith("Around(held=[...])")
