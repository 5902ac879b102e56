"""A program replayed with its coordinates moved off zero: what is under the links of its arguments then."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...families import Family
from ...families.charts import Chart
from ...program.named import Named, Params, alike, squeeze, unexpand, unwrap
from ...program.points.abreast import read_abreast
from ...program.program import Program
from ...program.site import Site
from ...program.unroll import unroll
from ...records.frozen import frozen
from ..reading import arguments

FAR = 4.0  # units of the predictor up to which columns are evaluated: beyond, a link loses digits
LEAPS = 12  # and corrections, at most
LEAP = {torch.float64: 2.0**50, torch.float32: 2.0**20}  # times as far where a step is lost in rounding; or back
NOISE = {torch.float64: 1e-13, torch.float32: 1e-5}


@frozen
class Linked:
    """One argument of one site, through one link."""

    site: str
    role: str
    chart: Chart
    family: Family
    rank: int  # events of the site
    reference: Tensor | None = field(default=None, repr=False)  # category of each row from which its predictors count
    never: Tensor | None = field(default=None, repr=False)  # categories of a row that no parameter brings up

    @property
    def unitless(self) -> bool:
        """Whether one is one in any units of the data: of what is under a logarithm or a logit."""
        return self.chart.name != "itself"

    @property
    def event(self) -> int:
        """Trailing dimensions of the argument."""
        return self.rank + self.family.roles[self.role].event_dim

    def named(self, site: Site, tensor: Tensor) -> Named:
        """Name the dimensions of an argument, or of its predictor."""
        return squeeze(tensor, site.dims, self.site, self.event)

    def argument(self, site: Site) -> Named:
        """Return the argument as the model computed it."""
        return self.named(site, arguments(self.family, site)[self.role].detach())

    def predictor(self, site: Site) -> Named:
        """Return what is under the link."""
        raw = self.raw(site)
        if self.never is not None:
            raw = torch.where(self.never, -torch.inf, raw)
        if self.reference is not None:
            raw = raw - raw.gather(-1, self.reference.expand((*raw.shape[:-1], 1)))
        return self.named(site, raw)

    def raw(self, site: Site) -> Tensor:
        """Return what is under the link as the distribution has it."""
        base = unwrap(site.fn).base
        logistic = self.chart.name in ("sigmoid", "softmax")
        raw = _logits(base, self.family.roles[self.role].event_dim) if logistic else None
        if raw is None:
            raw = self.chart.inverse(arguments(self.family, site)[self.role])
        return raw.detach().double()


def _logits(base: Any, event_dim: int) -> Tensor | None:
    """Return the logits, where the program gave them: no digits are lost far out."""
    inner = getattr(base, "_categorical", base)
    return unexpand(inner.logits, event_dim) if "logits" in vars(inner) and "probs" not in vars(inner) else None


@frozen
class Replays:
    """The program with all coordinates at zero, where the columns start from."""

    program: Program
    coordinates: Mapping[str, Chart]  # from the coordinates of a parameter to its values
    values: Params = field(repr=False)  # of the other parameters
    links: tuple[Linked, ...]
    base: tuple[Tensor, ...] = field(default=(), repr=False)  # predictor of every link
    known: tuple[tuple[Params, float, tuple[Tensor, ...]], ...] = field(default=(), repr=False)
    """Directions, steps, and the predictors there, which were found together."""

    @cached_property
    def zero(self) -> dict[str, Tensor]:
        """Coordinates of every parameter."""
        return {n: torch.zeros_like(self.program.parameters[n].initial) for n in self.coordinates}

    @cached_property
    def dtype(self) -> torch.dtype:
        """Of a replay."""
        return torch.float32 if any(z.dtype == torch.float32 for z in self.zero.values()) else torch.float64

    @property
    def noise(self) -> float:
        """Rounding of a replay."""
        return NOISE[self.dtype]

    def run(self, direction: Params, step: float = 1.0) -> tuple[Tensor, ...]:
        """Run the program a step away from zero coordinates, and return the predictors there."""
        for way, far, known in self.known:
            if far == step and alike(way, direction):
                return known
        with torch.no_grad():
            return self._under(self.program.run(self._point(direction, step)))

    def _point(self, direction: Params, step: float) -> dict[str, Tensor]:
        """Return the values of all parameters a step away from zero coordinates."""
        moved = {n: self.zero[n] + step * part.to(self.zero[n]) for n, part in direction.items()}
        point = {n: self.coordinates[n].forward(point) for n, point in {**self.zero, **moved}.items()}
        return {**self.values, **point}

    def _under(self, sites: Mapping[str, Site]) -> tuple[Tensor, ...]:
        """Return the predictor of every link in a run."""
        sites = unroll(sites)
        return tuple(link.predictor(sites[link.site]).tensor for link in self.links)

    def begun(self, ways: Sequence[tuple[Params, float]]) -> Replays:
        """Run at zero coordinates, and steps away in directions that are likely to be asked for, if that is one run."""

        def read(sites: Mapping[str, Site]) -> dict[tuple[str, str], Tensor]:
            return {(str(k), ""): part for k, part in enumerate(self._under(sites))}

        with torch.no_grad():
            start = self.program.run(self._point({}, 0.0))
            points = [self._point(direction, step) for direction, step in (({}, 0.0), *ways)]
            found = read_abreast(self.program, start, points, (), read)
        runs = [] if found is None else list(zip(*(part.unbind(0) for part in found.values()), strict=True))[1:]
        known = tuple((way, step, run) for (way, step), run in zip(ways, runs, strict=False))
        return replace(self, base=self._under(start), known=known)

    def of(self, which: Sequence[int]) -> Replays:
        """Return the same for some of the links."""

        def some(parts: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(parts[k] for k in which)

        known = tuple((way, step, some(run)) for way, step, run in self.known)
        return replace(self, links=some(self.links), base=some(self.base), known=known)

    def change(self, direction: Params, step: float) -> list[Tensor]:
        """Return how fast every predictor changes over a step."""
        return [_difference(m, b) / step for m, b in zip(self.run(direction, step), self.base, strict=True)]

    def moved(self, direction: Params) -> tuple[list[Tensor], float]:
        """Return the change over a step that keeps within the reach of every link, and that step.

        It is as large as links allow, or as their bases are: a covariate may be in any unit.
        """
        step, change, leap = 1.0, self.change(direction, 1.0), LEAP[self.dtype]
        for _ in range(LEAPS):
            sizes = [step * float(c.abs().max()) / self._reach(k) for k, c in enumerate(change)]
            size = max((s for s, link in zip(sizes, self.links, strict=True) if link.unitless), default=0.0)
            if size == 0.0:
                size = max((s for s, link in zip(sizes, self.links, strict=True) if not link.unitless), default=0.0)
                further = leap if size == 0.0 else 1.0 if size >= 1 / 16 else 2.0 ** math.ceil(-math.log2(size))
            else:
                further = 1 / leap if not math.isfinite(size) else 2.0 ** math.floor(-math.log2(size))
                further = 1.0 if 1 / 16 <= size <= 1 else further
            if further == 1.0 or (further > 1 and not self._free(direction)):
                break
            try:
                change, step = self.change(direction, step * further), step * further
            except (RuntimeError, ValueError):
                if further < 1:
                    raise
                break  # so far out there is no model
        return change, step

    def _reach(self, k: int) -> float:
        """Return how far a predictor is moved: as far as its link has digits, or once its own size."""
        if self.links[k].unitless:
            return FAR
        size = float(finite(self.base[k]).abs().max()) if self.base[k].numel() else 0.0
        return size if size > 0 else 1e-300

    def _free(self, direction: Params) -> bool:
        """Whether a direction may be followed far: no parameter of it enters by its logarithm."""
        return all(self.coordinates[name].name == "itself" for name in direction)

    def floor(self, change: Tensor, link: Linked, base: Tensor, step: float) -> Tensor:
        """Return what a change may be by rounding alone; what is under a link that has no unit is rounded beside 1."""
        size = 1 + finite(base).abs() if link.unitless else finite(base).abs().max()
        return self.noise * (size / step + float(change.abs().max()))


def _difference(moved: Tensor, base: Tensor) -> Tensor:
    """Return what has changed; nothing at a structural zero, whose logit is minus infinity before and after."""
    return torch.where(moved == base, 0.0, moved - base)


def finite(base: Tensor) -> Tensor:
    """Return a base with zeros where it is infinite: at a structural zero."""
    return torch.where(torch.isfinite(base), base, 0.0)
