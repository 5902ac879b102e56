"""What the engine knows of an exponential family, and the open table of them.

A family writes the log-density of one distribution as

    log p(x | args) = sum_i < natural_i(args), statistics_i(x) > + base(x)

so that the engine can evaluate every component by one matrix product, collect expected statistics by another, and hand
the sums to `solve`. The engine never learns the name of a family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, TypeVar

from torch import Tensor
from torch.distributions import Distribution

from ..program.named import unexpand
from ..records.frozen import frozen

Args = Mapping[str, Tensor]


@frozen
class Role:
    """One argument of a distribution that can be estimated.

    Attributes:
        domain: all values that the argument may take: "unit" (0 to 1), "simplex", "positive", "real" or "scale_tril". A
            parameter is solved in closed form only if it may take all of them.
        event_dim: trailing dimensions of one argument (1 for the rows of `Categorical.probs`).
        multiples: whether the closed form survives a known factor, as in `Poisson(exposure * rate)`.
    """

    domain: str
    event_dim: int = 0
    multiples: bool = False


class Family:
    """An exponential family. Subclass it, fill in the table and `register` it.

    Attributes:
        roles: the arguments that can be estimated, by name.
        event_dim: trailing dimensions of one value.
        solver: which of the engine's solvers pools the statistics over tied parameters: "joint" asks `solve` for all
            free arguments of a cell together and is right for every family; the built-in ones with partial tying
            ("counts", "rates", "normal", "multivariate_normal") bring their own, and "rows" is for `RowFamily`.
        summed: what `statistics` are, one after the other, as `help(EM)` says it to whoever writes an M-step.
    """

    roles: ClassVar[Mapping[str, Role]]
    event_dim: ClassVar[int] = 0
    solver: ClassVar[str] = "joint"
    summed: ClassVar[str] = ""
    known_event_dim: ClassVar[Mapping[str, int]] = {}  # event dimensions of known arguments, where not 0
    counting: ClassVar[frozenset[int]] = frozenset()  # positions of statistics that are one in every row
    location: ClassVar[str | None] = None  # the role that moves with the values, so that both may be centred
    quadratic: ClassVar[bool] = False  # whether `statistics` are one, the value, and its products x_i x_j for i <= j
    kinked: ClassVar[frozenset[str]] = frozenset()  # roles in which the log-density has no second derivative
    sharpens: ClassVar[frozenset[str]] = frozenset()  # roles at whose infinity all values are one
    wider: ClassVar[Family | None] = None  # reads the same distribution where an argument known here is estimated

    def read(self, distribution: Distribution) -> dict[str, Tensor]:
        """Return the arguments as the program gave them, unbroadcast: own batch shape + the event shape of the role.

        Arguments that are not in `roles` are known (`total_count`); they reach `statistics` and `base`. Roles of domain
        "unit" and "simplex" are returned as probabilities.
        """
        return {name: unexpand(getattr(distribution, name), role.event_dim) for name, role in self.roles.items()}

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        """Return the statistics `T(x)`: tensors of the value's batch shape, each with event dimensions of its own."""
        raise NotImplementedError

    def natural(self, args: Args) -> tuple[Tensor, ...]:
        """Return the natural parameters, matching `statistics` one by one.

        Roles of domain "unit" and "simplex" arrive as logarithms: `args["probs"]` is `log p`, and for "unit"
        `args["probs_complement"]` is `log(1 - p)`.
        """
        raise NotImplementedError

    def columns(self, value: Tensor, known: Args, out: Tensor) -> bool:
        """Write all statistics of a batch of values into one matrix, if there is a faster way than stacking them.

        Args:
            value: shape `(B,)` + event.
            known: arguments that are not estimated.
            out: float64, shape `(F, B)`.

        Returns:
            Whether `out` was written; False leaves the work to `statistics`.
        """
        return False

    def codes(self, value: Tensor, known: Args) -> Tensor | None:
        """Return the place of the one where the statistics are a one-hot row, of the value's batch shape; else None.

        Looking up a column and adding into it is faster than a matrix product with zeros.
        """
        return None

    def total(self, value: Tensor, known: Args) -> Tensor | None:
        """Return what the statistics of a row add up to, whatever is observed: one then follows from the others.

        Only for families with one statistic an outcome: a single one with an event dimension, or several without.

        Returns:
            Of a shape that broadcasts to the value's batch shape, or None if the sum depends on what is observed.
        """
        return None

    def whitening(self, args: Args) -> tuple[Tensor, Tensor]:
        """Return what turns deviations from the location into residuals `y` of unit variance, and its log-determinant.

        Only for families with a `location`, whose log-density, less the base measure, is `log |factor| - |y|^2 / 2`:
        where cells lie so far apart, or are so narrow, that natural parameters would lose digits.

        Args:
            args: all but the location, cells + event of the role.

        Returns:
            The factor, cells + whatever `whitened` takes; and its log-determinant, of the cells' shape.
        """
        raise NotImplementedError

    def whitened(self, deviation: Tensor, factor: Tensor, room: Tensor) -> Tensor:
        """Return the residuals, written over the deviations or into `room`.

        Args:
            deviation: cells + event + (rows,).
            factor: from `whitening`.
            room: of the shape of the deviations.
        """
        raise NotImplementedError

    def moments(self, deviation: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        """Return the `statistics` of deviations from a location, summed over rows: `sum_n w_n T(d_n)`.

        Args:
            deviation: cells + event + (rows,).
            weights: of a shape that broadcasts to cells + (rows,).

        Returns:
            One tensor a statistic, cells + its event; a sum of weights alone is of their shape less the rows.
        """
        raise NotImplementedError

    def shifted(self, statistics: tuple[Tensor, ...], by: Tensor) -> tuple[Tensor, ...]:
        """Summed statistics of values that are less by `by`, from those of the values: `sum w T(x - by)`.

        Only for families with a `location`. Sums over parts of the data, each around a centre of its own, add up after
        they have been moved to one.

        Args:
            statistics: summed, one tensor each: cells + event of the statistic.
            by: cells + event of the location.
        """
        raise NotImplementedError

    @property
    def linear(self) -> Family | None:
        """The family of the same values whose location is `x' b`, if sums over rows suffice for it.

        Its statistics are `(1, x x', x r, r^2)` with `r` the residual of `response`; `b` is its location.
        """
        return None

    @property
    def exposed(self) -> Family | None:
        """The family whose `rate` is multiplied by a known `exposure`, if sums over rows suffice for it."""
        return None

    def response(self, value: Tensor) -> Tensor:
        """Return what of a value the location of `linear` is compared with."""
        raise NotImplementedError

    def bearing(self, role: str, statistics: tuple[Tensor, ...]) -> Tensor | None:
        """Return the weight that bears on every entry of an argument, cells + event of the role.

        None where that is the weight of the cell.
        """
        return None

    def base(self, value: Tensor, known: Args) -> Tensor | None:
        """Return the log base measure `log h(x)`, of the value's batch shape; None is zero."""
        return None

    def solve(self, statistics: tuple[Tensor, ...], args: Args, free: frozenset[str]) -> dict[str, Tensor]:
        """Maximise `sum_i <natural_i(args), statistics_i>` over the `free` roles, the others staying at `args`.

        Args:
            statistics: expected sufficient statistics, one row a cell: shape `(cells,)` + event of the statistic.
            args: current arguments, shape `(cells,)` + event of the role, in the user's units (not logarithms).
            free: roles to solve for.

        Returns:
            The free roles. A cell with no solution keeps its current value. Raise `NotImplementedError` where there is
            no solution for this set of roles: the plan then says torch.
        """
        raise NotImplementedError


FamilyType = TypeVar("FamilyType", bound=type[Family])
_TABLE: dict[type[Distribution], Family] = {}


def register(*distributions: type[Distribution]) -> Callable[[FamilyType], FamilyType]:
    """Register a `Family` for distribution classes, as a decorator.

    Args:
        distributions: classes as the model writes them (`pyro.distributions.Poisson`), matched exactly: a subclass may
            change the density, so it is not taken for its parent.
    """

    def add(family: FamilyType) -> FamilyType:
        instance = family()
        for distribution in distributions:
            _TABLE[distribution] = instance
        return family

    return add


def family_of(distribution: Distribution) -> Family | None:
    """Return the registered family of an (unwrapped) distribution, if there is one."""
    return _TABLE.get(type(distribution))


def summed() -> dict[str, str]:
    """Say of every registered distribution what its statistics are, and what they are where an argument is estimated.

    Returns:
        By the name of the distribution; behind semicolons those of a wider family, and where covariates or exposures
            differ by row.
    """
    said = {}
    for distribution, family in _TABLE.items():
        wider = family.wider
        more = "" if wider is None else f"; where {_beside(wider, family)} is estimated {wider.summed}"
        line = "" if family.linear is None else f"; where covariates differ by row {family.linear.summed}"
        exposed = "" if family.exposed is None else f"; where exposures differ by row {family.exposed.summed}"
        said[distribution.__name__] = family.summed + more + line + exposed
    return said


def _beside(wider: Family, family: Family) -> str:
    """Name the argument that is known to a family and estimated by a wider one."""
    return next(role for role in wider.roles if role not in family.roles)


def family_for(distribution: type[Distribution]) -> Family:
    """Return the registered family of a distribution class."""
    return _TABLE[distribution]
