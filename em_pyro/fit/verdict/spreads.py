"""Scales of sites that Gaussian latents enter: of zero they are a maximum at the boundary, or one that is none.

Where latents are integrated a scale may well be zero: a random effect that the data do not show, a level that does not
move, a column that the factors explain. The likelihood is then flat next to it. Where a component is left with few rows
or equal values, it rises for ever as its scales shrink. Both are looked at where it matters, far below the scales at
hand, so that no unit has to be known.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from ...e_step.expectation import Expectation
from ...families.charts import domain_of, is_correlation
from ...program.named import Batch, Params, batched, only
from ..problem import Problem
from .around import MATRICES, Around, Entry, named
from .ground import Ground, heights_in_turn

LITTLE, SHRUNK = math.log(10.0), math.log(1e3)  # logarithms: how far a scale is moved towards zero
GROWN = tuple(math.log(10.0**k) for k in (1, 3, 6, 9, 12))  # and away from it
REST = 0.01  # of what is worth while, that the slope may promise next to zero
KEPT, MOST = 0.25, 50  # of what the slope promises, the least that is gained there; and so many scales at a time
LEVEL = 1e-9  # relative to 1 + |objective|: what it may lose on the way to zero
DEEP = 1e-7  # the same far down, where a precision of many digits leaves the objective fewer
FALL = 0.05  # nats that it loses away from there, or a flat direction is not identified
STEEP = 0.25  # nats that the slope promises to a scale that shrinks to a part
JUMPS = (8, 4, 2, 1)  # powers of ten by which one of several scales is lifted alone, if it may be
LIFTS, SEEN = 16, 0.01  # powers of ten by which a scale is lifted, at most; and nats that this may cost
ROWS = 0.5  # of a row of one number, whose log-density rises by a nat where its scale shrinks to a part
NEAR = 1e-3  # of what the program states: scales by which a precision has six digits less
LAST, NUDGES = 8 * torch.finfo(torch.float64).eps, 3  # of a parameter, relative: its last digits; and so many trials


def at_zero(ground: Ground, level: float, *, closely: bool) -> list[Entry]:
    """Return the scales that are zero at the maximum: the objective is flat below them, and falls above.

    Args:
        ground: the objective around the fit.
        level: the objective there.
        closely: whether there are few enough coordinates and rows to look.
    """
    own, each = _coordinates(ground.around, ground.problem.scales.spreads)
    if not closely or not len(own):
        return []
    slack = LEVEL * (1 + abs(level))
    little = ground.heights(-LITTLE * each) - level
    may = little >= -slack
    if not bool(may.any()):  # of most fits: nothing else is looked at
        return []
    own, each, little = own[may], each[may], little[may]
    lengths = torch.tensor([-SHRUNK, *GROWN], dtype=torch.float64)
    far, *grown = ground.heights((lengths[:, None, None] * each).flatten(0, 1)).reshape(len(lengths), -1) - level
    there = torch.isfinite(far)  # a covariance has no digits for a root that is much less
    flat = ((far >= -DEEP * (1 + abs(level))) | ~there) & (far - little <= max(FALL, slack))
    zero = flat & (torch.stack(grown) < -FALL).any(0)
    return [ground.around.entries[k] for k in own[zero].tolist()]


def gone_to_zero(problem: Problem, here: Batch, found: Expectation, worth: float) -> Batch | None:
    """Return where scales that are zero at the maximum are next to it, if that is higher; None if there are none.

    EM comes nearer by a part of the way with every step, and ever less of it: what is left is in the slope. On the way
    of a scale to zero the objective gains no more than the slope promises, and a collapse gains without end.

    Args:
        problem: the program.
        here: where EM has settled, one start.
        found: the E-step there.
        worth: nats, of a gain for which it is left.
    """
    names = problem.scales.spreads & set(problem.plan.maximised)
    if not names:
        return None
    around = Around(problem.program, tuple(sorted(names)), {n: v.detach().double() for n, v in only(here).items()})
    ground, level, (_, each) = Ground(problem, around), float(found.objective), _coordinates(around, names)
    promised, steepest = (each @ -ground.slope(found)).sort(descending=True)
    each, promised = (part[promised > worth][:MOST] for part in (each[steepest], promised))
    if not len(each):
        return None
    far = (promised / (REST * worth)).log() / 2  # the slope is that of a square, or of what a prior says
    each = -far.unsqueeze(-1) * each
    gains = ground.heights(each) - level
    vanishing = (gains >= KEPT * promised) & (gains <= promised + LEVEL * (1 + abs(level)))
    if not bool(vanishing.any()):
        return None
    together = each[vanishing].sum(0)
    higher = float(ground.heights(together.unsqueeze(0))) > level
    return batched(around.at(together).params) if higher else None


def at_rest(around: Around, zero: Sequence[Entry]) -> set[Entry]:
    """Return the entries of which nothing can be said beside scales that are zero: those, and all of their matrices."""
    singular = {(name, at[:-2]) for name, at in zero if around.domains[name] in MATRICES}
    return {entry for entry in around.entries if entry in zero or (entry[0], entry[1][:-2]) in singular}


def lifted(ground: Ground, zero: Sequence[Entry]) -> tuple[Ground, Tensor]:
    """Lift scales that are zero to where that is hardly seen: what complete data say of the rest is finite there.

    It is seen in the evidence: a prior of the scales says nothing of the rest. Some may be much nearer to zero than
    others are: first all are lifted together, then each of them by what it may cost alone.

    Returns:
        What is around there, and the way that led there, `(D,)`.
    """
    ways, lost = ways_up(ground, growing(ground.around, zero))
    seen = (lost > SEEN).nonzero().flatten()
    way = ways[int(seen[0]) - 1 if len(seen) else LIFTS - 1]
    if len(zero) > 1:
        each = LITTLE * torch.stack([growing(ground.around, [one]) for one in zero])
        higher, level = torch.zeros((len(zero), 1), dtype=torch.float64), _evidence(ground, way.unsqueeze(0))
        for more in JUMPS:
            kept = level - _evidence(ground, way + (higher + more) * each) <= SEEN / len(zero)
            higher = torch.where(kept.unsqueeze(-1), higher + more, higher)
        way = way + (higher * each).sum(0)
    return Ground(ground.problem, ground.around.at(way)), way


def _evidence(ground: Ground, ways: Tensor) -> Tensor:
    """Return the log evidence at the ends of ways, `(M)`; minus infinity where there is none."""
    with torch.no_grad():
        heights = ground.heights(ways) - ground.problem.log_prior(ground.problem.bind(ground.around.batch(ways)))
    return heights.nan_to_num(nan=-torch.inf)


def growing(around: Around, entries: Collection[Entry]) -> Tensor:
    """Return the way on which some scales grow, and nothing else moves, `(D,)`."""
    own, each = _coordinates(around, {name for name, _ in entries})
    some = torch.tensor([around.entries[k] in entries for k in own.tolist()], dtype=torch.bool)
    return each[some].sum(0)


def ways_up(ground: Ground, those: Tensor) -> tuple[Tensor, Tensor]:
    """Lift some coordinates by powers of ten, `(LIFTS, D)`; and say what evidence that costs."""
    ways = torch.arange(LIFTS, dtype=torch.float64).unsqueeze(-1) * LITTLE * those
    heights = _evidence(ground, ways)
    return ways, heights[0] - heights


def collapsing(problem: Problem, batch: Batch) -> str:
    """Say for which scales the likelihood has no bound as they shrink; empty if for none.

    It rises for ever, all else as it is; or would, but that nothing is left of it but the last digits of the values.
    """
    names = problem.scales.spreads
    values = {name: value.detach().double() for name, value in only(batch).items()}
    if not names or not all(bool(torch.isfinite(values[name]).all()) for name in names):
        return ""
    around = Around(problem.program, tuple(sorted(names)), values)
    zero = [one for one in around.edges() if around.logarithmic(one)]
    if zero:
        return _collapsed(problem, values, zero)
    (own, each), ground = _coordinates(around, names), Ground(problem, around)
    here = torch.zeros((1, around.size), dtype=torch.float64)
    with torch.no_grad():
        found = problem.expect(problem.bind(batched(values)))
    steep = each @ ground.slope_of_q(found, here)[0] < -STEEP
    if not bool(steep.any()):
        return ""
    those = own[steep]
    here[0] = -SHRUNK * each[steep].sum(0)
    before, once, twice = ground.heights(torch.cat([0 * here, here, 2 * here])).tolist()
    rises = min(once - before, twice - once) >= ROWS * SHRUNK
    shrinking = [around.entries[k] for k in those.tolist()]
    return _collapsed(problem, values, shrinking) if rises or _lost(problem, values) else ""


def near_zero(problem: Problem, batch: Batch) -> str:
    """Name the scales that are next to zero beside what the program states; empty if none is."""
    names, parameters = problem.scales.spreads, problem.program.parameters
    around = Around(problem.program, tuple(sorted(names)), {n: v.detach().double() for n, v in only(batch).items()})
    own = [(name, at) for name, at in around.entries if around.logarithmic((name, at))]
    return named([(n, at) for n, at in own if float(around.params[n][at]) < NEAR * float(parameters[n].initial[at])])


def _collapsed(problem: Problem, values: Params, entries: Sequence[Entry]) -> str:
    drawn = [entry for entry in entries if _drawn_by_its_prior(problem, values, entry[0])]
    if drawn:
        return (
            f"{named(drawn)} collapsed: the density of the prior rises for ever towards zero; take "
            f'EM(prior_density="unconstrained"), or a prior with a bound there'
        )
    return (
        f"{named(entries)} collapsed: the likelihood rises for ever as they shrink, onto few rows or equal values; "
        f"give them a prior, use fewer components, or other starts"
    )


def _drawn_by_its_prior(problem: Problem, values: Params, name: str) -> bool:
    """Whether the density of a prior goes on to rise as its parameter shrinks."""
    prior = problem.engine.priors.get(name)
    if prior is None or prior.fn is None:
        return False
    before, after = (float(prior.log_prob(values[name].unsqueeze(0) * part).sum()) for part in (1.0, math.exp(-SHRUNK)))
    return after - before > STEEP * SHRUNK


def _lost(problem: Problem, values: Params) -> bool:
    """Whether the last digits of the parameters move the objective by what a row has to say."""
    generator = torch.Generator().manual_seed(0)
    nudged = {}
    for name, value in values.items():
        real = domain_of(problem.program.parameters[name].constraint) == "real"
        noise = torch.randn((1 + NUDGES, *value.shape), generator=generator, dtype=torch.float64)
        noise[0] = 0.0
        nudged[name] = value * (1 + LAST * noise * real)
    heights = heights_in_turn(problem, nudged)
    heights = heights[torch.isfinite(heights)]
    return not len(heights) or float(heights.max() - heights.min()) > ROWS


def _coordinates(around: Around, names: Collection[str]) -> tuple[Tensor, Tensor]:
    """The coordinates that scales shrink with, and ways on which they grow, `(n, D)`.

    They are logarithms, the parameters whose functions they are, and points of roots of correlations: such a point runs
    to infinity, by a logarithm, as an entry on the diagonal goes to zero.
    """
    roots = {name for name in names if is_correlation(around.program.parameters[name].constraint)}
    entries = enumerate(around.entries)
    own = [k for k, one in entries if one[0] in names and (around.logarithmic(one) or around.domains[one[0]] == "real")]
    signs = [-1.0 if around.entries[k][0] in roots and float(around.values[k]) > 0 else 1.0 for k in own]
    every = torch.eye(around.size, dtype=torch.float64)[own]
    return torch.tensor(own, dtype=torch.long), torch.tensor(signs, dtype=torch.float64).unsqueeze(-1) * every
