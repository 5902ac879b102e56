"""Scores of rows: the gradient of the log evidence of every row, for any program whose rows are independent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...e_step.contraction.exponents import exponents
from ...errors import ParameterError
from ...fit.problem import Problem
from ...fit.verdict.ground import FINE, STEP, Ground
from ...posterior.posterior import Posterior, by_row
from ...program.named import Params

TOTAL = 1e-8  # relative to 1 + |log evidence|: rows that add up to all of it


@dataclass(frozen=True)
class Rows:
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


def outer(scores: Tensor, counts: Tensor) -> Tensor:
    """Return the sum of the outer products of scores that were multiplied by counts, `(r, r)`, about their mean.

    A row that is there `c` times counts `c` times: `sum_i (c_i s_i) (c_i s_i)' / c_i`. The mean is zero at a maximum of
    the likelihood; a prior moves it from there.
    """
    there = counts > 0
    scores, counts = scores[there], counts[there].unsqueeze(-1)
    scores = scores - counts * (scores.sum(0) / counts.sum())
    return scores.mT @ (scores / counts)


def rows_of(problem: Problem, params: Params, plate: str | None) -> Rows:
    """Find the rows that are independent: those of `plate`, or of the plate with most of them.

    Raises:
        ParameterError: no plate has independent rows that carry all of the evidence.
    """
    engine = problem.engine.full
    plates = engine.program.plates
    if plate is not None and plate not in plates:
        raise ParameterError(f'plate: expected one of {sorted(plates)}, got "{plate}".')
    evidence = float(problem.expect(problem.bind({n: v.unsqueeze(0) for n, v in params.items()})).log_evidence)
    found, whys = dict[str, tuple[Posterior, Tensor]](), list[str]()
    for name in plates if plate is None else (plate,):
        asked = Posterior(params, evidence, by_row(engine, name))
        try:
            found[name] = asked, asked.log_evidence_by(name)
        except ParameterError as why:
            whys.append(str(why))
    for names in _choices(problem, {name: len(rows) for name, (_, rows) in found.items()}):
        total = sum(float(found[name][1].sum()) for name in names)
        if abs(total - evidence) <= TOTAL * (1 + abs(evidence)) and sum(len(found[name][1]) for name in names) > 1:
            counts = torch.cat([_counts(problem, name) for name in names])
            return Rows(tuple(found[name][0] for name in names), names, counts)
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
        beside = {other for site in problem.engine.full.recognition.runs[0].values() for other in site.plates if name in site.plates}
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
