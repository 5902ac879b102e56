"""Five programs on which parallel enumeration is silently wrong, and ten correct ones that resemble them.

Each takes a seed, which draws its tables and data, and returns the model with its arguments. The wrong ones run in Pyro
without error or warning, validation on, and give another evidence than the program has when it is run value by value.
Tables are `pyro.param` values, drawn wide enough that rare states occur: clear the param store between seeds.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor
from torch.distributions import constraints

from programs.case import Model


class Seeded(NamedTuple):
    """A model and what it is called with."""

    model: Model
    args: tuple[Tensor, ...]


class _Draws:
    """Random tables and data from a generator of their own."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def real(self, *shape: int) -> Tensor:
        return 1.5 * torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def simplex(self, *shape: int) -> Tensor:
        return self.real(*shape).softmax(-1)

    def probability(self, *shape: int) -> Tensor:
        return self.real(*shape).sigmoid()

    def binary(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64).round()


def _weights(value: Tensor, name: str = "weights") -> Tensor:
    return pyro.param(name, value, constraint=constraints.simplex)


def _table(value: Tensor) -> Tensor:
    return pyro.param("table", value, constraint=constraints.unit_interval)


def indexed_in_two_steps(seed: int) -> Seeded:
    """WRONG: `T[a][1]` indexes the plate, or under enumeration the states, where `T[a, 1]` was meant."""
    draw = _Draws(seed)
    weights, table, data = draw.simplex(2), draw.probability(2, 2), draw.binary(2)

    def model(y: Tensor) -> None:
        p, T = _weights(weights), _table(table)
        with pyro.plate("row", 2):
            a = pyro.sample("a", dist.Categorical(p))
            pyro.sample("y", dist.Bernoulli(T[a][1]), obs=y)

    return Seeded(model, (data,))


def reduced_over_plate(seed: int) -> Seeded:
    """WRONG: a site outside the plate depends on the sum of the plate's latents."""
    draw = _Draws(seed)
    p, data = draw.probability(), draw.real()

    def model(y: Tensor) -> None:
        bias = pyro.param("bias", p, constraint=constraints.unit_interval)
        with pyro.plate("row", 3):
            x = pyro.sample("x", dist.Bernoulli(bias))
        pyro.sample("y", dist.Normal(x.sum(), 1.0), obs=y)

    return Seeded(model, (data,))


def another_plate_of_that_dimension(seed: int) -> Seeded:
    """WRONG: a site in one plate depends on a latent in another that happens to share its dimension and size."""
    draw = _Draws(seed)
    weights, centres, data = draw.simplex(2), draw.real(2), draw.real(3)

    def model(x: Tensor) -> None:
        p, loc = _weights(weights), pyro.param("loc", centres)
        with pyro.plate("p", 3):
            z = pyro.sample("z", dist.Categorical(p))
        with pyro.plate("q", 3):
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    return Seeded(model, (data,))


def branch_on_latent(seed: int) -> Seeded:
    """WRONG: Python branches on the latent; for odd seeds the two branches have sites of different names."""
    draw = _Draws(seed)
    weights, centres, data = draw.simplex(2), draw.real(2), draw.real()
    other = "y" if seed % 2 == 0 else "y2"

    def model(y: Tensor) -> None:
        loc = pyro.param("loc", centres)
        z = pyro.sample("z", dist.Categorical(_weights(weights)))
        if z.any():
            pyro.sample("y", dist.Normal(loc[1], 1.0), obs=y)
        else:
            pyro.sample(other, dist.Normal(loc[0], 1.0), obs=y)

    return Seeded(model, (data,))


def branch_on_shape(seed: int) -> Seeded:
    """WRONG: the program asks for the latent's shape, which enumeration changes."""
    draw = _Draws(seed)
    weights, centres, data = draw.simplex(2), draw.real(2), draw.real(2)

    def model(x: Tensor) -> None:
        p, loc = _weights(weights), pyro.param("loc", centres)
        with pyro.plate("row", 2):
            z = pyro.sample("z", dist.Categorical(p))
            pyro.sample("x", dist.Normal(loc[z] if z.shape == (2,) else loc, 1.0), obs=x)

    return Seeded(model, (data,))


def _rows(rows: int, body: Callable[[Tensor, Tensor, Any], Tensor]) -> Callable[[int], Seeded]:
    """Rows of a latent with two states and a Bernoulli whose probability `body(z, table, row)` reads in a table."""

    def build(seed: int) -> Seeded:
        draw = _Draws(seed)
        weights, table, data = draw.simplex(2), draw.probability(2, 2), draw.binary(rows)

        def model(y: Tensor) -> None:
            p, T = _weights(weights), _table(table)
            with pyro.plate("row", rows) as row:
                z = pyro.sample("z", dist.Categorical(p))
                pyro.sample("y", dist.Bernoulli(body(z, T, row)), obs=y)

        return Seeded(model, (data,))

    return build


def one_hot_sum(seed: int) -> Seeded:
    """Sum over an event dimension, not over the plate."""
    draw = _Draws(seed)
    weights, centres, data = draw.simplex(3), draw.real(3), draw.real(3)

    def model(x: Tensor) -> None:
        p, loc = _weights(weights), pyro.param("loc", centres)
        with pyro.plate("row", 3):
            z = pyro.sample("z", dist.OneHotCategorical(p))
            pyro.sample("x", dist.Normal((z * loc).sum(-1), 1.0), obs=x)

    return Seeded(model, (data,))


def sum_by_loop(seed: int) -> Seeded:
    """Sum latents that a Python loop sampled, each in a dimension of its own."""
    draw = _Draws(seed)
    p, data = draw.probability(), draw.real()

    def model(y: Tensor) -> None:
        bias = pyro.param("bias", p, constraint=constraints.unit_interval)
        total = sum(pyro.sample(f"x_{i}", dist.Bernoulli(bias)) for i in range(3))
        pyro.sample("y", dist.Normal(total, 1.0), obs=y)

    return Seeded(model, (data,))


def plates_of_one_dimension(seed: int) -> Seeded:
    """Use two plates of one dimension and size, each with a latent of its own, and a latent above both."""
    draw = _Draws(seed)
    weights, rows, centres, data = draw.simplex(2), draw.simplex(2, 2), draw.real(2), draw.real(3)

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", centres)
        g = pyro.sample("g", dist.Categorical(_weights(weights)))
        inside = _weights(rows, "inside")[g]
        for name in ("p", "q"):
            with pyro.plate(name, 3):
                z = pyro.sample(f"z_{name}", dist.Categorical(inside))
                pyro.sample(f"x_{name}", dist.Normal(loc[z], 1.0), obs=x)

    return Seeded(model, (data,))


def branch_on_data(seed: int) -> Seeded:
    """Branch in Python on the data and on a latent's number of dimensions, to one and the same effect."""
    draw = _Draws(seed)
    weights, centres, data = draw.simplex(2), draw.real(2), draw.real(2)

    def model(x: Tensor) -> None:
        p, loc = _weights(weights), pyro.param("loc", centres)
        with pyro.plate("row", 2):
            z = pyro.sample("z", dist.Categorical(p))
            mean = loc[z] if z.dim() < 2 else loc.index_select(0, z.reshape(-1)).reshape(z.shape)
            pyro.sample("x", dist.Normal(mean, 1.0) if x.mean() > 0 else dist.Laplace(mean, 1.0), obs=x)

    return Seeded(model, (data,))


WRONG: dict[str, Callable[[int], Seeded]] = {
    f.__name__: f
    for f in (
        indexed_in_two_steps,
        reduced_over_plate,
        another_plate_of_that_dimension,
        branch_on_latent,
        branch_on_shape,
    )
}
"""Programs that a self-check must catch on every seed."""

CORRECT: dict[str, Callable[[int], Seeded]] = {
    "indexed_together": _rows(2, lambda z, T, row: T[z, 1]),
    "indexed_after_ellipsis": _rows(2, lambda z, T, row: T[z][..., 1]),
    "table_by_row": _rows(2, lambda z, T, row: Vindex(T)[row, z]),
    "where_on_latent": _rows(3, lambda z, T, row: torch.where(z == 0, T[0, 0], T[1, 0])),
    "product_with_one_hot": _rows(3, lambda z, T, row: torch.nn.functional.one_hot(z, 2).to(T.dtype) @ T[0]),
    "two_steps_to_a_row_table": _rows(2, lambda z, T, row: Vindex(T[row])[..., z]),
    "one_hot_sum": one_hot_sum,
    "sum_by_loop": sum_by_loop,
    "plates_of_one_dimension": plates_of_one_dimension,
    "branch_on_data": branch_on_data,
}
"""Correct programs that a self-check must pass on every seed."""
