"""One Newton step on `Q` in place of its maximum, where rows are gone when the M-step is taken.

Statistics of a regression with a link are weights row by row, and do not add up. Slope and curvature of `Q` at the
current parameters do. One step by them a pass is a generalised EM step: the share of it that is gone is halved until
the objective does not fall, which the next pass tells (`fit/step.py`).

References:
    Rai, S. N. and Matthews, D. E. (1993). Improving the EM algorithm. Biometrics 49, 587-591: one Newton step in place
    of the M-step, with a halved share of it where the likelihood would fall.
    Lange, K. (1995). A gradient algorithm locally equivalent to the EM algorithm. JRSS B 57, 425-437.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import field, replace
from typing import ClassVar

import torch
from torch import Tensor

from ...e_step.engine import Engine
from ...e_step.second.expansion import PARTS, expansion
from ...e_step.sites.site_factor import SiteFactor
from ...e_step.sums import Sums
from ...families.newton import ascent_direction
from ...program.named import Batch
from ...records.frozen import frozen
from ..pooling import Refused
from ..uses import Block, family_name, made_up, terms_of
from .irls import SINGULAR, Regression

STEP = "Newton step"
WHY = "its statistics are kept by row: one damped Newton step a pass by summed curvature, backtracked"


@frozen
class Steps:
    """Parameters of sites whose statistics are kept by row, moved by one step of Newton's method.

    Attributes:
        block: of these parameters.
        rows: the sites that keep their rows; the designs are those of the rows at hand.
        rest: the others, and the priors.
    """

    how: ClassVar[str] = STEP
    separable: ClassVar[bool] = False
    absorbs: ClassVar[bool] = True
    swept: ClassVar[str] = ""

    block: Block = field(repr=False)
    rows: Regression = field(repr=False)
    rest: Regression = field(repr=False)

    @classmethod
    def of(cls, engine: Engine, block: Block) -> Steps:
        """Lay out a block, and differentiate it twice.

        Raises:
            Refused: it cannot be, or some of its parameters are maximised otherwise.
        """
        whole = Regression.of(engine, block)
        if whole.swept:
            raise Refused(whole.swept)
        factors = terms_of(engine, block.names)
        for factor in factors:
            _check_shared(factor)
        rest = Regression.laid_out(engine, block, [factor for factor in factors if factor.kept is None])
        kept = [factor.name for factor in factors if factor.kept is not None]
        made = cls(block, _of_rows(engine, block, kept), rest)
        batch = {name: p.initial.double().unsqueeze(0) for name, p in engine.program.parameters.items()}
        for name, at in made.sites.items():
            sums = made_up([made.rows.sites[at].factors[0]])[name]
            made.rows.of_site(at, made.rows.coordinates(batch), sums)
        return made

    @property
    def parameters(self) -> tuple[str, ...]:
        """Those that move."""
        return self.rows.parameters

    @property
    def sites(self) -> dict[str, int]:
        """The sites that keep their rows, and their places."""
        return {site.factors[0].name: at for at, site in enumerate(self.rows.sites)}

    def on(self, engine: Engine) -> Steps:
        """The same on the rows of another engine."""
        return replace(self, rows=_of_rows(engine, self.block, self.sites))

    def expanded(self, sums: Mapping[str, Sums], batch: Batch) -> dict[str, Sums]:
        """Expand the share of every site that keeps its rows, around `batch`; its statistics are forgotten."""
        found, theta = dict[str, Sums](), self.rows.coordinates(batch)
        for name, at in self.sites.items():
            if name in sums and sums[name].coordinates is None:
                q, slope, curvature = self.rows.of_site(at, theta, sums[name])
                value = q.reshape((len(q), -1)).sum(-1)
                found[name] = expansion(sums[name], (value, slope, curvature), self._moving(batch), self._moving)
        return found

    def _moving(self, batch: Batch) -> Tensor:
        return self.rest.coordinates(batch)[:, : self.rest.count]

    def solve(self, sums: Mapping[str, Sums], batch: Batch) -> dict[str, Tensor]:
        """Take one step; a start whose slope is not finite stays where it is."""
        theta, moving = self.rest.coordinates(batch), self._moving(batch)
        others = [site.counted(sums) for site in self.rest.sites]
        _, slope, curvature = self.rest.expand(theta, others, batch)
        for name in self.sites:
            _, first, second = sums[name].about(moving).parts[:PARTS]
            slope, curvature = slope + first, curvature + second
        step = ascent_direction(slope, curvature, flat=SINGULAR, level=1.0)
        return self.moved(batch, step)

    def moved(self, batch: Batch, step: Tensor) -> dict[str, Tensor]:
        """Return the parameters a step `(starts, E)` in coordinates away."""
        theta = self.rest.coordinates(batch)
        there = theta.clone()
        there[:, : self.rest.count] += torch.where(step == 0, 0.0, step)
        return self.rest.values(there, theta, batch)

    def between(self, batch: Batch, new: Batch) -> dict[str, Tensor]:
        """Return the parameters half way from `batch` to `new`, in coordinates."""
        way = self._moving(new) - self._moving(batch)
        return self.moved(batch, torch.where(torch.isfinite(way), way / 2, 0.0))


def _check_shared(factor: SiteFactor) -> None:
    """Refuse parameters of which every row has entries of its own: other rows would be given the same ones.

    Raises:
        Refused: naming the argument.
    """
    if factor.kept not in factor.cells:
        return
    axis = factor.cells.index(str(factor.kept))
    for key, role in factor.roles.items():
        pieces = (role.index,) if role.affine is None else (piece.index for piece in role.affine.pieces)
        for index in () if role.known else pieces:
            own = index.movedim(axis, 0).reshape((index.shape[axis], -1))
            if len(own) > 1 and len(own.unique(dim=0)) == len(own):
                raise Refused(f"{family_name(factor)}.{key} has entries of its own in every row")


def _of_rows(engine: Engine, block: Block, names: Collection[str]) -> Regression:
    """Lay out sites by name: in rows that are alike, or in a single one, nothing tells that they keep their rows."""
    factors = [factor for factor in terms_of(engine, block.names) if factor.name in names]
    return Regression.laid_out(engine, block, factors, joined=False)
