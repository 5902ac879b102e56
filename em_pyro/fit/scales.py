"""How small the scales of a program are beside the spread of its data: what a collapse is measured by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field
from functools import cached_property

import torch
from torch import Tensor

from ..e_step.engine import Engine
from ..e_step.expectation import Expectation
from ..e_step.second.expansion import counted
from ..e_step.sites.site_factor import SiteFactor
from ..families.charts import bounds_of, domain_of, may_vanish
from ..program.masks import seen_values
from ..program.named import Params
from ..program.site import Site
from ..reading.bound import Bound
from ..records.frozen import frozen
from .collapse.narrow import DEGENERATE, lengths, unit, width
from .collapse.spike import Shapes
from .collapse.watched import Watched, watched_in

SPIKE = 1e10  # of what sharpens a law, a concentration say: there all values are one
BLURRED = 1e-4  # of the pooled scale: of a column that loses digits beside others
TORN = 1e-5  # of the pooled scale: of a column in which rounding is seen, so that another step has another root
COLLINEAR = " is nearly a combination of the columns before it (collinear columns); leave one out, or take differences"
GROWING = ("itself", "exp", "softplus", "square", "sqrt", "covariance")  # charts under which a scale grows


@frozen
class Scales:
    """Everything in a program that may shrink to nothing, each with its unit.

    Attributes:
        engine: of the program.
        samples: values by site, where the engine holds only some of the rows.
    """

    engine: Engine = field(repr=False)
    samples: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def watched(self) -> tuple[Watched, ...]:
        """Sites with a location or a logarithm of one, whose scale is no constant."""
        return watched_in(self.engine, self.samples)

    @cached_property
    def predicted(self) -> bool:
        """Whether an argument of a site is a sum of terms."""
        return any(role.affine is not None for one in self.engine.leaders.values() for role in one.roles.values())

    @cached_property
    def _spikes(self) -> tuple[tuple[SiteFactor, str], ...]:
        """Sites whose values draw together where an argument runs to infinity, and which it is."""
        factors = [factor for factor in self.engine.leaders.values() if factor.role == "observed"]
        return tuple(
            (f, key) for f in factors for key in f.roles if key in f.family.sharpens and not f.roles[key].known
        )

    def narrowest(self, bound: Bound) -> list[Tensor]:
        """Return the scales of every watched site in units of its pooled one, (starts) + cells + events.

        Of what sharpens a law, what is `DEGENERATE` where that makes a spike.
        """
        roots = [one.roots(bound) / one.pooled for one in self.watched]
        return roots + [DEGENERATE * SPIKE / factor.arguments(bound)[key] for factor, key in self._spikes]

    def collapsed(self, bound: Bound, found: Expectation | None = None) -> str:
        """Say which scale has shrunk to nothing beside the spread of its site, and onto what; empty if none has.

        Args:
            bound: the parameters.
            found: the E-step that led there, if its weights are to say onto what.
        """
        for one in self.watched:
            small = (one.roots(bound) < DEGENERATE * one.pooled).squeeze(0)
            if bool(small.any()):
                shared = _is_one(one.roots(bound))
                why = _onto(one, small, found, shared=shared) if found is not None else ""
                where = "all rows" if shared else _cell(one.factor, small)
                return f'site "{one.factor.name}": {one.role} collapsed at {where}{why}'
        for factor, key in self._spikes:
            large = ~(factor.arguments(bound)[key] <= SPIKE).squeeze(0)  # a step that ran off leaves nan
            if bool(large.any()):
                return f'site "{factor.name}": {key} runs to infinity at {_cell(factor, large)}'
        return ""

    def collinear(self, bound: Bound, below: float = BLURRED) -> str:
        """Say which column is nearly a combination of others, so that densities lose digits; empty if none is.

        Args:
            bound: the parameters.
            below: of the pooled scale.
        """
        for one in self.watched:
            small = (one.roots(bound) < below * one.pooled).squeeze(0)
            if one.role == "scale_tril" and one.pooled.shape[-1] > 1 and bool(small.any()):
                column = int(small.nonzero()[0][-1])
                return f'site "{one.factor.name}": column {column} at {_cell(one.factor, small)}{COLLINEAR}'
        return ""

    # ---- sites that Gaussian latents enter ----

    @cached_property
    def spreads(self) -> frozenset[str]:
        """Parameters that are scales, roots of covariances, or part of them, of sites that Gaussian latents enter."""
        found, bank = set[str](), self.engine.recognition.bank
        for factor in (factor for one in self.engine.units if one.continuous for factor in one.factors):
            for key in ("scale", "scale_tril"):
                if key in factor.roles and factor.roles[key].affine is None:
                    segments = bank.touched(factor.roles[key], factor.family.roles[key].domain)
                    found |= {segment.parameter for segment in segments if segment.chart.name in GROWING}
        parameters = self.engine.program.parameters
        found |= {name for name in bank.scaling if may_vanish(parameters[name].constraint)}
        return frozenset(found & parameters.keys())

    @cached_property
    def bounded(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Parameters between bounds that locations are made of, and the bounds: densities are finite there."""
        found, bank, parameters = set[str](), self.engine.recognition.bank, self.engine.program.parameters
        for factor in (factor for factor in self.engine.leaders.values() if "loc" in factor.roles):
            found |= bank.parameters(factor.roles["loc"], factor.family.roles["loc"].domain)
        mine = {name: parameters[name] for name in parameters if name in found}
        ends = {name: bounds_of(p.constraint, p.initial.shape) for name, p in mine.items()}
        return {name: bounds for name, bounds in ends.items() if bounds is not None}

    def shrunk(self, params: Params) -> bool:
        """Whether one of these is far below what it was in the program as it is stated."""
        program = self.engine.program
        for name in self.spreads:
            value, initial = params[name], program.parameters[name].initial
            if domain_of(program.parameters[name].constraint) == "real":
                continue
            if value.dim() > 1 and domain_of(program.parameters[name].constraint) != "positive":
                value, initial = (part.diagonal(dim1=-2, dim2=-1) for part in (value, initial))
            if bool((value < DEGENERATE * initial).any()):
                return True
        return False

    # ---- sites that are replayed ----

    @cached_property
    def replayed(self) -> dict[str, float]:
        """Replayed sites and priors with a scale that a parameter enters, each with its unit.

        The unit of an observed site is the spread of its values; that of a prior, whose values shrink with it, the
        scale that it started from.
        """
        engine = self.engine
        names = [n for n in engine.written if n not in engine.program.latents]
        names += [name for name, prior in engine.priors.items() if prior.fn is None]
        found: dict[str, float] = {}
        initial = {n: p.initial.double() for n, p in engine.program.parameters.items()}
        with torch.no_grad():
            start = engine.program.run(initial) if names else {}
        for name in names:
            scale = width(start[name])
            if scale is None or not self._varies(name):
                continue
            prior = start[name].role == "prior"
            found[name] = float(scale.min()) if prior else float(unit(_seen_lengths(start[name])))
        return found

    def _varies(self, name: str) -> bool:
        """Whether the scale of a site differs between probes."""
        scales = [width(run[name]) for run in self.engine.recognition.runs]
        return any(s is not None and scales[0] is not None and not torch.equal(s, scales[0]) for s in scales[1:])

    def replay_collapsed(self, params: Params) -> str:
        """Say the same of sites that are replayed, and of priors whose scale is a parameter: the model is run."""
        moving = [name for name in self.shapes.lengths if name in self.engine.written]
        if not self.replayed and not moving:
            return ""
        with torch.no_grad():
            sites = self.engine.program.run(params)
        for name, length in self.replayed.items():
            scale = width(sites[name])
            if scale is not None and bool((scale < DEGENERATE * length).any()):
                kind = "prior" if sites[name].role == "prior" else "site"
                return f'{kind} "{name}": its scale collapsed'
        return self.shapes.spiked(sites, moving)

    @cached_property
    def shapes(self) -> Shapes:
        """Observed sites whose laws have no scale."""
        return Shapes(self.engine)


def _seen_lengths(site: Site) -> Tensor:
    """Return the values of a site that are seen, where its scale is a length, as one vector."""
    values, visible = lengths(site), seen_values(site)
    return (values[visible] if visible.shape == values.shape[: visible.dim()] else values).reshape(-1)


def _is_one(roots: Tensor) -> bool:
    """Whether all cells have the same scale, however their locations differ."""
    return roots.numel() > 1 and bool((roots == roots.flatten()[0]).all())


def _onto(one: Watched, small: Tensor, found: Expectation, *, shared: bool) -> str:
    """Say why a scale has collapsed: collinear columns, equal values, or few rows; and what helps."""
    factor, at = one.factor, small.nonzero()[0].tolist()
    if factor.plates and factor.plates <= set(factor.cells) and not shared:
        return ", which is one of a single row, fitted exactly; give its parameters a prior, or use fewer of them"
    where = tuple(at[: len(factor.cells)])
    each = [counted(found.sums[leader.name], factor.cell_shape).parts for leader in one.leaders]
    counting = sorted(factor.family.counting) if all(each) else []
    parts = [torch.stack([sums[k] for sums in each]).sum(0).squeeze(0) for k in counting]
    tie = ", tie it between them" if math.prod(small.shape[: len(factor.cells)]) > 1 else ""
    advice = f"; give it a prior, use fewer components{tie}, or other starts"
    if not parts:
        return f" onto few rows or equal values{advice}"
    if shared:
        rows = max(float(part.sum(tuple(range(len(factor.cells)))).max()) for part in parts)
    else:
        rows = max(
            float(part[tuple(min(i, n - 1) for i, n in zip(where, part.shape, strict=False))].max()) for part in parts
        )
    columns = one.pooled.shape[-1] if one.role == "scale_tril" else 1
    if columns > 1 and rows > columns + 0.5:
        return f": column {at[-1]} of {rows:.3g} rows{COLLINEAR}"
    if rows > columns + 0.5:
        return f": {rows:.3g} rows have equal values, or are fitted exactly; only a prior gives them a scale"
    return f": few rows are left ({rows:.3g}){advice}"


def _cell(factor: SiteFactor, wrong: Tensor) -> str:
    """The first cell with something wrong."""
    cell = tuple(int(i) for i in wrong.nonzero()[0][: len(factor.cells)])
    return ", ".join(f"{n}={i}" for n, i in zip(factor.cells, cell, strict=False)) or "all rows"
