"""What every solver is, and the table of them: a new kind of block is a new file and a row here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

from torch import Tensor

from ..e_step.engine import Engine
from ..e_step.sums import Sums
from ..program.named import Batch
from .counts import Counts, Rates
from .joint import Joint
from .least_squares.solver import LeastSquares
from .regression.irls import Regression
from .regression.steps import Steps
from .rows import Rows
from .uses import Block


class Solver(Protocol):
    """Maximises `Q` over the parameters of one block, given the expected statistics.

    Attributes:
        how: what the plan calls it, "closed form", "Newton" or "Newton step".
        separable: whether each parameter of this kind is maximised by itself, whatever else meets it at a site.
        absorbs: whether every parameter that meets one of this kind at a site is solved with it.
    """

    how: ClassVar[str]
    separable: ClassVar[bool]
    absorbs: ClassVar[bool]

    @classmethod
    def of(cls, engine: Engine, block: Block) -> Solver:
        """Plan the solution of a block.

        Raises:
            Refused: the block has no joint maximum of this kind; the reason goes into the plan.
        """

    @property
    def parameters(self) -> tuple[str, ...]:
        """Parameters that are solved for."""

    @property
    def swept(self) -> str:
        """Why the maximum is only conditional, so that blocks are alternated until `Q` is stationary; or empty."""

    def solve(self, sums: Mapping[str, Sums], batch: Batch) -> dict[str, Tensor]:
        """Return new values of the parameters.

        A start without a step becomes NaN or stays, and leaves the others alone.

        Args:
            sums: expected statistics of every site.
            batch: current values of all parameters of the program.
        """


SOLVERS: Mapping[str, type[Solver]] = {
    "counts": Counts,
    "rates": Rates,
    "normal": LeastSquares,
    "multivariate_normal": LeastSquares,
    "newton": Regression,
    "rows": Rows,
    "joint": Joint,
}
"""Solvers by the kind of block: what `Family.solver` says, and "newton" where arguments are affine through a link."""


def by_steps(engine: Engine, block: Block) -> Solver:
    """Plan a block of which some statistics are kept by row, and these rows are gone when it is solved.

    Raises:
        Refused: it has no second derivatives, or cannot be solved by itself.
    """
    return Steps.of(engine, block)


def solver_of(kind: str) -> type[Solver]:
    """Look up the solver of a kind of block; one that nobody brings is joint, which is right for every family."""
    return SOLVERS.get(kind, Joint)
