"""The answer: standard errors, covariances and intervals, and which entries have none, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import ParameterError
from ...families.charts import domain_of
from ...program.named import Params, unraveled
from ...records.frozen import frozen
from ...records.shown import Shown
from .intervals import Interval, deviations, interval_of, on_scale

IDENTIFIED = 1e-5  # of what an entry moves at most along such a direction: what is no movement
MATRICES = ("lower_cholesky", "positive_definite")


@frozen
class Direction:
    """A direction along which the objective is flat, at constrained values.

    Attributes:
        moves: by parameter, how far its entries move, of their shapes; the furthest by one standard error given
            complete data, or by one where these know nothing of it.
        entries: those that move most, as text.
    """

    moves: Mapping[str, Tensor] = field(repr=False)
    entries: str

    def __str__(self) -> str:
        """Name the entries."""
        return self.entries


class Estimate(NamedTuple):
    """A function of the parameters: its value, standard error and interval, each of the shape of the value."""

    value: Tensor
    se: Tensor
    interval: Interval


class Row(NamedTuple):
    """One entry of a parameter, as a table has it; NaN where there is no number."""

    name: str
    value: float
    se: float
    lower: float
    upper: float
    note: str


@frozen
class Refused:
    """Directions `(D, m)` along which nothing can be said, and the note to what moves along them."""

    directions: Tensor = field(repr=False)
    why: str

    def moves(self, slopes: Tensor, unit: Tensor) -> Tensor:
        """Which functions of the coordinates move along them: gradients `(k, D)` to `(k)`."""
        size = (self.directions.abs() / unit.unsqueeze(-1)).amax(0).clamp(min=1e-300)
        most = (slopes.abs() @ unit).unsqueeze(-1)
        return ((slopes @ (self.directions / size)).abs() > IDENTIFIED * most).any(-1)


@frozen
class Information(Shown):
    """What the data say of the fitted values. Print it.

    It is taken at the top of the objective, to which Newton's method goes from the fitted values; entries that run to a
    boundary are put there, and the others are judged with these fixed. Covariances are inverses of an information on
    the constrained scale; at a maximum with priors, of the log posterior density that was maximised.

    Attributes:
        kind: "observed", "opg", "robust" or "complete".
        params: the values at the top, float64, fixed ones included.
        dimension: number of free parameters at an interior point.
        rank: number of directions that the data determine: less than `dimension` where entries are at a boundary, run
            off or are not identified.
        directions: the flat ones, by name.
        rate: at which plain EM converges near there: one less the smallest share of the information in complete data
            that the observed data have, among the directions that they determine.
        missing: the share of the information in complete data that is missing, by direction, the largest first.
        notes: what is said of the whole.
    """

    kind: str
    params: Params = field(repr=False)
    dimension: int
    rank: int
    directions: tuple[Direction, ...]
    rate: float
    missing: Tensor = field(repr=False)
    notes: tuple[str, ...] = ()
    constraints: Mapping[str, Any] = field(default_factory=dict, repr=False)
    slopes: Mapping[str, Tensor] = field(default_factory=dict, repr=False)  # by name (entries, D)
    spread: Tensor = field(default_factory=lambda: torch.zeros((0, 0), dtype=torch.float64), repr=False)  # (D, D)
    unit: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64), repr=False)  # (D)
    refused: tuple[Refused, ...] = field(default=(), repr=False)
    fixed: Mapping[str, Mapping[tuple[int, ...], str]] = field(default_factory=dict, repr=False)

    @cached_property
    def se(self) -> dict[str, Tensor]:
        """Standard errors by name, of the shapes of the parameters; NaN where there is none (`notes_of` says why)."""
        found = {}
        for name, slopes in self.slopes.items():
            variance = ((slopes @ self.spread) * slopes).sum(-1).clamp(min=0)
            found[name] = torch.where(self._silent[name], torch.nan, variance.sqrt()).reshape(self.params[name].shape)
        return found

    def covariance(self, names: str | Sequence[str]) -> Tensor:
        """Return the covariance of the entries of one parameter, or of several side by side.

        Entries are in the order of `reshape(-1)`, parameters in that of `names`: shape `(entries, entries)`. Rows and
        columns of entries without a standard error are NaN.

        Raises:
            ParameterError: no such parameter, or a fixed one.
        """
        these = (names,) if isinstance(names, str) else tuple(names)
        for name in these:
            self._known(name)
        if not these:
            raise ParameterError(f"Information: expected one of {sorted(self.slopes)} or several, got none.")
        slopes = torch.cat([self.slopes[name] for name in these])
        silent = torch.cat([self._silent[name] for name in these])
        found = slopes @ self.spread @ slopes.mT
        return torch.where(silent | silent.unsqueeze(-1), torch.nan, found)

    def interval(self, name: str, level: float = 0.95) -> Interval:
        """Return the ends of an interval for every entry of a parameter, each of its shape.

        It is symmetric on an unconstrained scale and mapped back: the logarithm of what is positive (of the diagonal of
        a matrix), the log odds of a probability, and the transform of other bounds. Real entries, and those of a
        constraint that joins them (an order), have value plus and minus a number of standard errors.

        Raises:
            ParameterError: no such parameter, a fixed one, or a level that is none.
        """
        self._known(name)
        many = deviations(level)
        return interval_of(self.params[name], self.se[name], self.constraints[name], many)

    def function(self, fn: Callable[[dict[str, Tensor]], Tensor], level: float = 0.95) -> Estimate:
        """Return a function of the parameters with its standard error, by the delta method.

        Args:
            fn: from the constrained values by name to a tensor of any shape, in operations of torch.
            level: of the interval, value plus and minus a number of standard errors.

        Raises:
            ParameterError: `fn` returns no tensor of real numbers, or one that torch cannot differentiate, or that is
                not finite at the fitted values.
        """
        many = deviations(level)
        if not callable(fn):
            raise ParameterError(
                f"Information.function: expected a function of the parameters, as lambda p: p[...][1] - p[...][0], got "
                f"{type(fn).__name__}."
            )
        leaves = {name: value.clone().requires_grad_() for name, value in self.params.items()}
        with torch.enable_grad():
            value = fn(dict(leaves))
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise ParameterError(
                f"Information.function: expected a function that returns a tensor of real numbers, got "
                f"{type(value).__name__}. Stack several results with torch.stack."
            )
        if not bool(torch.isfinite(value).all()):
            raise ParameterError(
                f"Information.function: expected a function that is finite at the fitted values, got "
                f"{value.detach().tolist()}."
            )
        slopes = self._chained(value, leaves)
        variance = ((slopes @ self.spread) * slopes).sum(-1).clamp(min=0)
        se = torch.where(self._moves(slopes), torch.nan, variance.sqrt()).reshape(value.shape)
        value = value.detach().double()
        return Estimate(value, se, Interval(value - many * se, value + many * se))

    def _chained(self, value: Tensor, leaves: Mapping[str, Tensor]) -> Tensor:
        """Gradients by the coordinates, `(numbers, D)`, of what was computed of the parameters."""
        names = list(self.slopes)
        rows = []
        for one in value.reshape(-1):
            if not one.requires_grad:
                rows.append(torch.zeros(len(self.unit), dtype=torch.float64))
                continue
            found = torch.autograd.grad(one, [leaves[n] for n in names], retain_graph=True, allow_unused=True)
            parts = [
                g.reshape(-1).double() @ self.slopes[n] for n, g in zip(names, found, strict=True) if g is not None
            ]
            rows.append(sum(parts, torch.zeros(len(self.unit), dtype=torch.float64)))
        return torch.stack(rows) if rows else torch.zeros((0, len(self.unit)), dtype=torch.float64)

    # ---- what has no standard error ----

    def notes_of(self, name: str) -> dict[tuple[int, ...], str]:
        """Say of every entry of a parameter that has no standard error why, by its index.

        Raises:
            ParameterError: no such parameter, or a fixed one.
        """
        self._known(name)
        return dict(self._notes[name])

    @cached_property
    def _notes(self) -> dict[str, dict[tuple[int, ...], str]]:
        found = {}
        for name, slopes in self.slopes.items():
            shape = tuple(self.params[name].shape)
            notes = dict(self.fixed.get(name, {}))
            for refused in self.refused:
                places = refused.moves(slopes, self.unit).nonzero().flatten()
                for at in (
                    zip(*(p.tolist() for p in unraveled(places, shape)), strict=True) if shape else [()][: len(places)]
                ):
                    notes.setdefault(at, refused.why)
            found[name] = notes
        return found

    @cached_property
    def _silent(self) -> dict[str, Tensor]:
        found = {}
        for name in self.slopes:
            mask = torch.zeros(self.params[name].shape, dtype=torch.bool)
            for at in self._notes[name]:
                mask[at] = True
            found[name] = mask.reshape(-1)
        return found

    def _moves(self, slopes: Tensor) -> Tensor:
        """Which gradients move along a direction of which nothing can be said."""
        found = torch.zeros(len(slopes), dtype=torch.bool)
        for refused in self.refused:
            found = found | refused.moves(slopes, self.unit)
        return found

    def _known(self, name: str) -> None:
        if name not in self.slopes:
            fixed = " It is kept fixed." if name in self.params else ""
            raise ParameterError(f'Information: expected one of {sorted(self.slopes)}, got "{name}".{fixed}')

    # ---- the table ----

    def rows(self, level: float = 0.95) -> Iterator[Row]:
        """Yield one row for every entry, but those that a triangle leaves at zero."""
        for name, values in ((n, self.params[n]) for n in self.slopes):
            lower, upper = self.interval(name, level)
            shape, triangle = tuple(values.shape), domain_of(self.constraints[name]) in MATRICES
            flat = (part.reshape(-1).tolist() for part in (values, self.se[name], lower, upper))
            for k, numbers in enumerate(zip(*flat, strict=True)):
                at = tuple(int(i) for i in unraveled(torch.tensor(k), shape))
                if triangle and at[-1] > at[-2]:
                    continue
                label = name + (f"[{', '.join(map(str, at))}]" if at else "")
                value, se, low, high = numbers
                yield Row(label, value, se, low, high, self._notes[name].get(at, ""))

    def __str__(self) -> str:
        """Return a table with every entry, then the notes."""
        lines = [("parameter", "value", "se", "95 % interval", "")]
        for row in self.rows():
            numbers = "" if row.se != row.se else f"[{row.lower:.6g}, {row.upper:.6g}]"
            lines.append((row.name, f"{row.value:.6g}", "" if row.se != row.se else f"{row.se:.4g}", numbers, row.note))
        widths = [max(len(line[k]) for line in lines) for k in range(4)]
        text = [
            "  ".join([*(c.ljust(w) for c, w in zip(line, widths, strict=False)), line[4]]).rstrip() for line in lines
        ]
        text.insert(1, "  ".join("-" * w for w in widths))
        known = f"{self.rank} of {self.dimension} directions determined, rate of EM {round(self.rate, 8):.4g}"
        text.append(f"{on_scale(self.kind)}; {known}")
        return "\n".join([*text, *self.notes])
