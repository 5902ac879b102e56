"""Parameters as one vector, and groups of what meets."""

import torch
from oracles.engines import distance, laid_out
from oracles.tolerances import IDENTITY
from torch import tensor

from em_pyro.program.coordinates import FAR, Coordinates
from em_pyro.program.named import batched, connected, only


def test_there_and_back() -> None:
    """Every parameter has coordinates, and comes back from them."""
    built = laid_out("multivariate_mixture")
    coordinates = Coordinates(built.program, tuple(built.here))
    vector = coordinates.vector(built.here)
    assert len(vector) == sum(value.numel() for value in built.here.values())
    found = coordinates.params(vector, built.there)
    assert max(distance(found[name], value) for name, value in built.here.items()) < IDENTITY
    assert {name: part.shape for name, part in coordinates.cut(vector, built.here).items()} == {
        name: point.shape for name, point in coordinates.points(built.here).items()
    }


def test_what_has_no_coordinate_stays() -> None:
    """The others are those of the values nearby."""
    built = laid_out("gaussian_mixture")
    some = Coordinates(built.program, ("weights",))
    found = some.params(some.vector(built.here), built.there)
    assert distance(found["weights"], built.here["weights"]) < IDENTITY
    assert all(torch.equal(found[name], value) for name, value in built.there.items() if name != "weights")
    assert len(Coordinates(built.program, ()).vector(built.here)) == 0


def test_a_boundary_is_far_away() -> None:
    """A scale of zero has an infinite coordinate, which an optimiser sees as a large number."""
    built = laid_out("gaussian_mixture")
    (name,) = (n for n in built.here if "scale" in n)
    zero = {**built.here, name: torch.zeros_like(built.here[name])}
    coordinates = Coordinates(built.program, (name,))
    assert bool((coordinates.vector(zero) == -torch.inf).all())
    assert bool((coordinates.finite(zero) == -FAR).all())


def test_one_start_is_a_batch_of_one() -> None:
    """The dimension of starts comes first, and goes."""
    values = {"a": tensor([1.0, 2.0]), "b": tensor(3.0)}
    assert {name: value.shape for name, value in batched(values).items()} == {"a": (1, 2), "b": (1,)}
    assert all(torch.equal(only(batched(values))[name], value) for name, value in values.items())


def test_what_meets_is_one_group() -> None:
    """Groups in the order of their first items; what is no item joins nothing."""
    assert connected("abcde", [("c", "a"), ("x", "b"), ("e", "x"), ("d", "c")]) == [["a", "c", "d"], ["b"], ["e"]]
    assert connected([], [(1, 2)]) == []
    assert connected(range(4), [(3, 1), (0, 1)]) == [[0, 1, 3], [2]]
