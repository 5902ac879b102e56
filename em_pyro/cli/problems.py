"""The models that the command line knows, each with its data as tensors and the picture that suits it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from .. import Fit, plotting
from ..models import coins, gaussian_mixture
from ..models.data import load
from ..program.named import Params
from ..records.frozen import frozen
from .tables import Table, TableError, known

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Covariance = Literal["full", "tied", "diagonal", "spherical"]

TOSSES = ("flips", "tosses", "n")
"""What the column that counts all tosses may be called."""

MIXTURES: dict[Covariance, Callable[..., None]] = {
    "full": gaussian_mixture.full,
    "tied": gaussian_mixture.tied,
    "diagonal": gaussian_mixture.diagonal,
    "spherical": gaussian_mixture.spherical,
}


@frozen
class Problem:
    """A model and the data to fit it to.

    Attributes:
        title: a line that says what and how much.
        model: the Pyro program.
        args: its arguments.
        latent: the name of its assignment site.
        draw: `(fit, history, ax) -> ax`, the picture that suits the model.
        ids: what tells the rows apart, where a column does.
    """

    title: str
    model: Callable[..., None]
    args: tuple[Tensor, ...]
    latent: str
    draw: Callable[[Fit, Sequence[Params], Axes], Axes]
    ids: Sequence[str] | None = None


def bundled(name: str) -> Table:
    """Read a data set that comes with the package; in messages it goes by its bare name."""
    return known(f"{name}.csv", load(name))


def coin_problem(
    table: Table,
    *,
    columns: Sequence[str] | None = None,
    components: int = 2,
    equal_weights: bool = False,
    key: str | None = None,
) -> Problem:
    """Pose the mixture of coins for a table of heads and tosses; `key` is a column that tells the rows apart.

    Raises:
        TableError: the table does not hold such counts, or fewer rows than coins.
    """
    counts = table.counts(_heads_and_tosses(table, columns, key))
    wrong = np.argwhere(counts[:, 0] > counts[:, 1])
    if len(wrong):
        i = wrong[0, 0]
        found = f"{counts[i, 0]:g} of {counts[i, 1]:g}"
        raise TableError(f"{table.at(i)}: expected no more heads than tosses, got {found}. Correct the row.")
    _enough(table, components)
    heads, flips = torch.from_numpy(counts).unbind(1)

    def draw(fit: Fit, history: Sequence[Params], ax: Axes) -> Axes:
        return plotting.coin_weights(fit.posterior.marginal("coin"), heads, flips, ax)

    title = f"{components} coins, {len(heads)} sequences of tosses from {table.source}"
    model = partial(coins.equal_coins if equal_weights else coins.coins, K=components)
    return Problem(title, model, (heads, flips), "coin", draw, _ids(table, key))


def gaussian_problem(
    table: Table,
    *,
    columns: Sequence[str] | None = None,
    components: int = 2,
    covariance: Covariance = "full",
    key: str | None = None,
) -> Problem:
    """Pose the mixture of Gaussians for the columns of a table, all of them if none are named.

    Of more than two columns, the first two are drawn. `key` is a column that tells the rows apart, no coordinate.

    Raises:
        TableError: the columns do not hold finite numbers, one of them the same number throughout, or there are fewer
            rows than components.
    """
    ids = _ids(table, key)
    names = tuple(columns or (name for name in table.names if name != key))
    x = torch.from_numpy(table.numbers(names))
    for name, constant in zip(names, (x == x[0]).all(0), strict=True):
        if constant:
            raise TableError(
                f'{table.source}, column "{name}": expected numbers that vary. Leave it out with --columns.'
            )
    _enough(table, components)
    title = f"{components} Gaussians, {len(x)} rows of {', '.join(names)} from {table.source}"
    if len(names) == 1:
        values = x[:, 0]

        def draw_curves(fit: Fit, history: Sequence[Params], ax: Axes) -> Axes:
            plotting.mixture_curves(values, history, ax).set_xlabel(names[0])
            return ax

        line = partial(gaussian_mixture.univariate, K=components, tied=covariance == "tied")
        return Problem(title, line, (values,), "component", draw_curves, ids)

    def draw(fit: Fit, history: Sequence[Params], ax: Axes) -> Axes:
        weights, means = fit.posterior.marginal("component"), fit.params["loc"][:, :2]
        plotting.ellipses(x[:, :2], weights, means, covariances(fit.params)[..., :2, :2], ax)
        ax.set(xlabel=names[0], ylabel=names[1])
        return ax

    return Problem(title, partial(MIXTURES[covariance], K=components), (x,), "component", draw, ids)


def covariances(params: Params) -> Tensor:
    """Return the covariances of a Gaussian mixture of any kind, shape `(K, D, D)` or, tied, `(D, D)`."""
    if "scale_tril" in params:
        return params["scale_tril"] @ params["scale_tril"].mT
    scale = params["scale"].reshape(len(params["loc"]), -1)
    return torch.diag_embed(scale.expand_as(params["loc"]) ** 2)


def _heads_and_tosses(table: Table, columns: Sequence[str] | None, key: str | None) -> tuple[str, ...]:
    others = tuple(name for name in table.names if name != key)
    if columns:
        if len(columns) != 2:
            raise TableError(f"--columns: expected two, of heads and of tosses, got {len(columns)}.")
        return tuple(columns)
    if not table.headed and len(others) == 2:
        return others
    tosses = [name for name in TOSSES if name in table.names]
    if "heads" not in table.names or not tosses:
        remedy = "Name them so, or choose with --columns HEADS,TOSSES."
        found = ", ".join(table.names)
        raise TableError(f'{table.source}: expected columns "heads" and "flips", got {found}. {remedy}')
    return "heads", tosses[0]


def _ids(table: Table, key: str | None) -> list[str] | None:
    return None if key is None else [str(cell) for cell in table.cells(key)]


def _enough(table: Table, components: int) -> None:
    if len(table) < components:
        remedy = "Ask for fewer --components."
        raise TableError(f"{table.source}: expected at least {components} rows, got {len(table)}. {remedy}")
