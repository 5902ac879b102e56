"""Scores of rows: the gradient of the log evidence of every row, for any program whose rows are independent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field, replace

import torch
from torch import Tensor

from ...e_step.contraction.exponents import exponents
from ...errors import ParameterError
from ...fit.problem import Problem
from ...fit.verdict.ground import FINE, STEP, Ground
from ...posterior.posterior import Posterior, by_row
from ...program.named import Params
from ...records.frozen import frozen

TOTAL = 1e-9  # relative to 1 + |log evidence|: by how much rows may change less than all of it does
ASIDE = 0.5  # of a standard error given complete data: how far aside that is asked


@frozen
class IndependentRows:
    """The rows of some plates that have no latent in common, those of the plates side by side.

    Attributes:
        plates: of which each row has its own part of the evidence.
        counts: how often each row is there, `(N)`: its weight.
    """

    plates: tuple[Posterior, ...] = field(repr=False)
    names: tuple[str, ...]
    counts: Tensor = field(repr=False)

    def evidence(self, params: Params) -> Tensor:
        """Return the log evidence of every row times its weight, `(N)`."""
        found = [replace(p, params=params).log_evidence_by(n) for p, n in zip(self.plates, self.names, strict=True)]
        return torch.cat(found)

    def scores(self, ground: Ground, basis: Tensor) -> Tensor:
        """Return the gradient of every row's evidence along the columns of `basis (D, r)`: `(N, r)`, by differences."""
        columns = []
        for direction in basis.mT:
            points = ground.around.batch(torch.stack([STEP * k * direction for k in FINE]))
            at = ({name: value[k] for name, value in points.items()} for k in range(len(FINE)))
            parts = (weight * self.evidence(params) for weight, params in zip(FINE.values(), at, strict=True))
            columns.append(sum(parts, torch.zeros_like(self.counts)) / STEP)
        return torch.stack(columns, -1) if columns else self.counts.new_zeros((len(self.counts), 0))


@frozen
class Outer:
    """Outer products of scores that were multiplied by counts, summed: of parts of the rows they add.

    Attributes:
        products: about the mean of these rows, `(r, r)`. A row that is there `c` times counts `c` times:
            `sum_i (c_i s_i) (c_i s_i)' / c_i`. The mean is zero at a maximum of the likelihood, if these are all rows
            and no prior moves it from there.
        total: the sum of the scores, `(r)`.
        weight: of the counts.
        rows: of those that count.
    """

    products: Tensor = field(repr=False)
    total: Tensor = field(repr=False)
    weight: float
    rows: int

    def __add__(self, other: Outer) -> Outer:
        """Add those of other rows; about the mean of all."""
        weight = self.weight + other.weight
        apart = self.total / max(self.weight, 1e-300) - other.total / max(other.weight, 1e-300)
        between = self.weight * other.weight / max(weight, 1e-300) * torch.outer(apart, apart)
        products = self.products + other.products + between
        return Outer(products, self.total + other.total, weight, self.rows + other.rows)


def outer(scores: Tensor, counts: Tensor) -> Outer:
    """Sum the outer products of scores that were multiplied by counts."""
    there = counts > 0
    scores, counts = scores[there], counts[there].unsqueeze(-1)
    total, weight = scores.sum(0), float(counts.sum())
    scores = scores - counts * (total / max(weight, 1e-300))
    return Outer(scores.mT @ (scores / counts), total, weight, len(counts))


def rows_of(ground: Ground, basis: Tensor, plate: str | None, least: int = 2) -> IndependentRows:
    """Find the rows that are independent: those of `plate`, or of the plate with most of them; `least` how many.

    Their evidence has to change as that of all does, which may have parts of its own that no parameter enters.

    Raises:
        ParameterError: no plate has independent rows that carry all of the evidence.
    """
    problem, params = ground.problem, ground.around.params
    engine = problem.engine.full
    plates = engine.program.plates
    if plate is not None and plate not in plates:
        raise ParameterError(f'plate: expected one of {sorted(plates)}, got "{plate}".')
    signs = (-1.0) ** torch.arange(basis.shape[1], dtype=torch.float64)
    pair = ground.around.batch(torch.stack([0 * signs, ASIDE * signs / max(len(signs), 1) ** 0.5]) @ basis.mT)
    ends = [{name: value[k : k + 1] for name, value in pair.items()} for k in range(2)]  # the model is run at one
    here, aside = (float(problem.expect(problem.bind(end)).log_evidence) for end in ends)
    there = {name: value[0] for name, value in ends[1].items()}
    found, whys = dict[str, Posterior](), list[str]()
    change, sizes = dict[str, float](), dict[str, int]()
    for name in plates if plate is None else (plate,):
        asked = Posterior(params, here, by_row(engine, name))
        try:
            rows = asked.log_evidence_by(name)
        except ParameterError as error:
            whys.append(str(error))
            continue
        found[name], sizes[name] = asked, len(rows)
        change[name] = float(replace(asked, params=there).log_evidence_by(name).sum() - rows.sum())
    for names in _choices(problem, sizes):
        missed = sum(change[name] for name in names) - (aside - here)
        if abs(missed) <= TOTAL * (1 + abs(here)) and sum(sizes[name] for name in names) >= least:
            counts = torch.cat([_counts(problem, name) for name in names])
            return IndependentRows(tuple(found[name] for name in names), names, counts)
    where = f'plate "{plate}"' if plate is not None else f"one of the plates {sorted(plates)}" if plates else "a plate"
    why = whys[0] if whys else "They do not carry all of the evidence, or there is one of them."
    raise ParameterError(
        f"information: expected several independent rows of {where}, got none whose scores could be multiplied: one "
        f'sequence has one score, which is zero. {why} Ask for kind="observed".'
    )


def _choices(problem: Problem, sizes: dict[str, int]) -> Iterable[tuple[str, ...]]:
    """Single plates, the longest first; then all that no site has in common."""
    order = sorted(sizes, key=lambda name: -sizes[name])
    yield from ((name,) for name in order)
    apart, taken = list[str](), set[str]()
    for name in order:
        beside = {
            other
            for site in problem.engine.full.recognition.runs[0].values()
            for other in site.plates
            if name in site.plates
        }
        if name not in taken:
            apart.append(name)
            taken |= beside
    if len(apart) > 1:
        yield tuple(apart)


def _counts(problem: Problem, plate: str) -> Tensor:
    """How often each row of a plate is there: its `poutine.scale`, where that is one number a row."""
    engine = problem.engine.full
    sites = {n: s for n, s in engine.recognition.runs[0].items() if plate in s.plates}
    scales = exponents(sites)
    one = torch.ones(engine.program.plates[plate], dtype=torch.float64)
    scale = scales[min(scales, key=len)] if scales else None
    return one if scale is None or not set(scale.names) <= {plate} else one * scale.tensor
