"""Laws of what belongs to other rows alone, at the fitted laws of the rest: topics of new documents, say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..e_step.engine import Engine
from ..e_step.sites.site_factor import SiteFactor
from ..e_step.sums import Sums
from ..errors import ParameterError
from ..fit.problem import Problem
from ..m_step.uses import uses_of
from ..program.named import Params
from ..reading.bank import Bank
from ..reading.bound import Bound
from ..records.frozen import frozen
from .choose import Priors, choose
from .climbing.climb import Climb, climb
from .conjugate import Conjugate, Draw
from .laws import bound_to


@frozen
class Kept:
    """A law that stays as it is."""

    moves: ClassVar[bool] = False
    last: ClassVar[bool] = False

    of: Conjugate = field(repr=False)
    law: Any

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters."""
        return self.of.names

    def updated(self, sums: Mapping[str, Sums], about: Bound, law: Any) -> Any:
        """The law."""
        return self.law

    def points(self, law: Any) -> Params:
        """Those of the law."""
        return self.of.points(law)

    def means(self, law: Any) -> Params:
        """Those of the law."""
        return self.of.means(law)

    def divergence(self, law: Any, other: Any = None) -> Tensor:
        """Nothing: it has been paid for."""
        return torch.zeros((), dtype=torch.float64)

    def disturbed(self, law: Any, nats: float, draw: Draw) -> Any:
        """The law, which stays."""
        return law

    def log(self, law: Any, *, complement: bool) -> Tensor:
        """Those of the law."""
        return self.of.log(law, complement=complement)

    def excess(self, law: Any, factor: SiteFactor, about: Bound) -> Tensor | None:
        """Those of the law."""
        return self.of.excess(law, factor, about)

    def variance(self, law: Any, factor: SiteFactor, bank: Bank) -> Tensor | None:
        """Those of the law."""
        return self.of.variance(law, factor, bank)

    def spread(self, law: Any, factor: SiteFactor) -> Tensor | None:
        """Those of the law."""
        return self.of.spread(law, factor)


def own_of_rows(engine: Engine) -> frozenset[str]:
    """Return the parameters of which the rows of the longest plate select entries: they belong to these rows."""
    plate, found = engine.full.plate, set[str]()
    for name, uses in uses_of(engine.full).items():
        for _, _, role in uses:
            if plate in role.names and role.affine is None:
                along = role.index.movedim(role.names.index(plate), 0)
                if bool((along != along[:1]).any()):
                    found.add(name)
    return frozenset(found)


def fitted_on(there: Problem, priors: Priors, laws: Mapping[Any, Any], own: frozenset[str], tol: float) -> Climb:
    """Fit the laws of what is the other rows' own; the others stay.

    Args:
        there: the program on other rows.
        priors: those given.
        laws: fitted, by the names of their parameters.
        own: parameters that belong to rows.
        tol: as of the fit.

    Raises:
        ParameterError: a law that is to stay has another shape there.
    """
    every, start = list[Conjugate](), list[tuple[Conjugate, Any]]()
    for each in choose(there.engine, priors):
        if own.issuperset(each.names):
            every.append(each)
            start.append((each, getattr(each, "prior")))  # noqa: B009
            continue
        law = laws[each.names]
        for name, value in each.points(law).items():
            want = there.program.parameters[name].initial.shape
            if value.shape != want:
                raise ParameterError(
                    f'"{name}": expected its fitted shape {tuple(value.shape)} on other rows, got {tuple(want)}. Pass '
                    f"rows of the same kind."
                )
        every.append(Kept(each, law))
        start.append((every[-1], law))
    first = bound_to(start, there.engine.recognition.bank)
    return climb(there, tuple(every), first, tol=tol, max_steps=1000, told=lambda *_: None)
