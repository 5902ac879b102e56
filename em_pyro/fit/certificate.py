"""A closer look at where a fit has ended: its slope, its boundary, what runs to infinity and what is not identified."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..e_step.expectation import Expectation
from ..program.named import Params, batched
from .empty import drawn_seldom
from .problem import Problem
from .verdict.around import Around, Entry, named
from .verdict.digits import noise
from .verdict.edges import before_edges, edge_notes, snapped, undefined
from .verdict.findings import Findings, believed
from .verdict.ground import Ground, around_of, evaluated
from .verdict.infinity import run_off, running
from .verdict.kinks import kinks
from .verdict.krylov import PRODUCTS, glimpse
from .verdict.peak import SUSPECT, peak
from .verdict.plateaus import hidden_rows, higher_elsewhere
from .verdict.spreads import at_rest, at_zero, lifted

MANY = 50  # free coordinates up to which all second derivatives are taken
MOST, MOST_RUN = 500, 150  # up to which identification is looked at; where the model itself is differentiated
DEAR = 10_000_000  # entries of factors, all evaluations together, up to which it is
CHEAP = 1_000_000  # up to which a look takes no longer than the steps of a saddle test
FEW = 10  # free coordinates up to which it does, where the model's own densities are evaluated one by one
CLOSER = 10  # times as many, where a first look has found a direction that may be flat
EVALUATIONS = 5  # for every coordinate
SINGLE = "the model computes in single precision"
SINGLE_SLACK = 1e-7  # rounding of the objective, relative: above it, it is that of single precision
TRIALS = tuple(0.1**k for k in range(10))  # of the step that the slope promises most for: next to no information
BESIDE = tuple(0.1**k for k in range(1, 7))  # standard errors given complete data: how far neighbours are


def glanced(problem: Problem, params: Params, found: Expectation, tol: float) -> Findings | None:
    """Look closer while the path is on its way, if that costs next to nothing; None where it may cost more.

    Its curvature tells a saddle as well as steps from beside it do, and it is asked for at the end in any case.
    """
    around = around_of(problem, params)
    few = around.size <= (FEW if problem.engine.open else MANY) and problem.rows.whole
    cheap = few and EVALUATIONS * around.size * evaluated(problem) <= CHEAP
    return certify(problem, params, found, tol) if cheap else None


def before_an_edge(problem: Problem, params: Params) -> tuple[bool, str]:
    """Tell whether a step up the slope is impossible, however short, and name the entries along which no law is left.

    A bound of a support is next to data, or the law of the program ends. Known families have neither inside.
    """
    around = around_of(problem, params)
    if not problem.engine.written or _unseen(problem, around) not in ("", SINGLE):
        return False, ""
    ground = Ground(problem, around)
    slope = ground.slope(ground.found())
    edges = before_edges(ground, slope)
    return bool(edges.any()), named(undefined(ground, slope, edges))


def certify(problem: Problem, params: Params, found: Expectation, tol: float, *, settled: bool = True) -> Findings:
    """Look at the objective around `params`, where `found` is the E-step, in coordinates of all that may move.

    The slope is Fisher's: that of `Q` at the parameters of its E-step. Its scale is the information in complete data,
    minus the Hessian of `Q`. With many coordinates, or where the evaluations would cost more than some E-steps of the
    rows at hand, the slope alone is looked at and a note says so. Whether this is a maximum, and what is flat, is
    asked only where the steps have `settled`: on the way to one, and at a saddle, it says nothing about the model. What
    is no doubt at the `tol` of the fit is not put to the test.

    References: Fisher (1925); Oakes (1999).
    """
    around = around_of(problem, params)
    ground = Ground(problem, around)
    level = ground.height(found)
    unseen, put_there = _unseen(problem, around), list[Entry]()
    if not unseen:
        ground, put_there = snapped(ground, level)
        if put_there:
            found = problem.expect(problem.bind(batched(ground.around.params)))
    closely = unseen in ("", SINGLE)
    information = ground.curvature_of_q(found) if closely else None
    if not unseen and (information is None or not bool(torch.isfinite(information).all())):
        information, unseen = None, "torch has no second derivatives of Q here"
    zero = at_zero(ground, level, closely=closely)
    edges = frozenset(name for name, _ in (*ground.around.edges(), *zero))
    notes, inwards = edge_notes(ground, zero)
    findings = Findings(0.0, tuple(notes), ends=edges)
    if information is not None and not bool(torch.isfinite(information).all()):
        information = None
    if information is not None and not unseen and ground.around.size:
        findings = _told(findings, ground, level, found, information, zero, settled=settled)
    if (put_there or edges & problem.scales.bounded.keys()) and inwards >= 0:  # what was put there may not rest there
        findings = replace(findings, least=0.0)
    return _judged(findings, ground, level, found, information, unseen, tol) if settled else findings


def _judged(
    findings: Findings,
    ground: Ground,
    level: float,
    found: Expectation,
    information: Tensor | None,
    unseen: str,
    tol: float,
) -> Findings:
    """Add what was not seen, and what speaks against a maximum: slopes, digits, kinks, plateaus, heights beside."""
    findings = findings.noted(f"identification was not looked at: {unseen}") if unseen else findings
    slope, allowed = ground.slope(found), believed(level, tol)
    bad = [one for one, steep in zip(ground.around.entries, slope.tolist(), strict=True) if not math.isfinite(steep)]
    findings = replace(
        findings,
        gain=_gain(ground, level, found, slope, information, allowed),
        along=_steepest(ground, slope),
        undefined=named(bad),
    )
    if ground.problem.slack <= SINGLE_SLACK:
        findings = replace(findings, noise=noise(ground, allowed, few=unseen != ""))
    if not ground.problem.engine.written:  # families have their digits, and no kinks
        return findings
    return replace(
        findings,
        higher=_beside(ground, level, information),
        plateau=higher_elsewhere(ground, level, slope),
        hidden=hidden_rows(ground, level, slope),
        kinks=named(kinks(ground, information)) if not unseen else "",
    )


def _unseen(problem: Problem, around: Around) -> str:
    """Why the slope alone is looked at; empty if all is."""
    if around.size > (MOST_RUN if problem.engine.open else MOST):
        return f"{around.size} free coordinates"
    if problem.slack > SINGLE_SLACK:
        return SINGLE
    if problem.engine.runs_model and any(problem.program.parameters[n].tensor is not None for n in around.names):
        return "the weights of a module"
    first = EVALUATIONS * around.size if around.size <= MANY else 2 * PRODUCTS + MANY
    return "" if first * evaluated(problem) <= DEAR else "too many rows"


# ---- the slope ----


def _gain(
    ground: Ground, level: float, found: Expectation, slope: Tensor, information: Tensor | None, allowed: float
) -> float:
    """What the slope promises to a step; of more than is `allowed` no more than such steps gain: it may be rounding."""
    if not len(slope) or not bool(torch.isfinite(slope).all()):
        return 0.0
    step = _along(ground, found, slope) if information is None else _newton(information, slope)
    promised = float(slope @ step) / 2
    if promised <= allowed:
        return promised
    reached = ground.heights(torch.tensor(TRIALS, dtype=torch.float64).unsqueeze(-1) * step) - level
    return min(promised, max(float(reached.max()), 0.0))


def _beside(ground: Ground, level: float, information: Tensor | None) -> tuple[float, str]:
    """Return by how much the objective is higher beside, and along which entry; no maximum has such neighbours.

    The slope is zero on the steps of a density that is the rounding of something else, and at an inflection.
    """
    if information is None:
        return 0.0, ""
    size = information.diagonal().abs()
    each = torch.diag(torch.where(size > 0, size.clamp(min=1e-300).rsqrt(), 0.0))
    rises = ground.heights(torch.cat([part * far for far in BESIDE for part in (each, -each)])) - level
    if not len(rises):
        return 0.0, ""
    most = int(rises.argmax())
    return float(rises[most]), named([ground.around.entries[most % ground.around.size]])


def _newton(information: Tensor, slope: Tensor) -> Tensor:
    """The step by the information in complete data, every entry in its own standard error."""
    size = information.diagonal().abs()
    unit = torch.where(size > 0, size.clamp(min=1e-300).rsqrt(), 0.0)
    values, vectors = torch.linalg.eigh(information * unit * unit.unsqueeze(-1))
    return unit * (vectors @ ((slope * unit) @ vectors / values.abs().clamp(min=1e-10)))


def _steepest(ground: Ground, slope: Tensor) -> str:
    """Name the entries with most slope, each in its own size."""
    steep = (slope * ground.around.sizes).abs().nan_to_num(nan=0.0)
    return named([ground.around.entries[k] for k in steep.argsort(descending=True)[:2].tolist()])


def _along(ground: Ground, found: Expectation, slope: Tensor) -> Tensor:
    """The step to the top of `Q` along its slope, which gains no more than one to its maximum; one, if none is seen."""
    steep = slope.norm().clamp(min=1e-300)
    little = 1e-4 * slope / steep
    bend = ground.slope_of_q(found, -little.unsqueeze(0))[0] - ground.slope_of_q(found, little.unsqueeze(0))[0]
    curved = float(bend @ slope) / 2e-4 / float(steep)
    return slope / curved if 0 < curved < math.inf else slope / steep  # beside a slope without digits it is infinite


# ---- infinity, and what is not identified ----


def _told(
    findings: Findings,
    ground: Ground,
    level: float,
    found: Expectation,
    information: Tensor,
    zero: Sequence[Entry],
    *,
    settled: bool,
) -> Findings:
    """Add what runs to infinity, how far it has come, and along what the objective is flat beside what is `zero`."""
    still = at_rest(ground.around, zero)
    off = {entry: to for entry, to in running(ground, level, information).items() if entry not in still}
    told = information.any(-1).tolist()
    silent = [entry for entry, some in zip(ground.around.entries, told, strict=True) if not some]
    domains, params = ground.around.domains, ground.around.params
    far = (float(params[n][at]) for (n, at), to in off.items() if to == "infinity" and domains[n] == "positive")
    findings = replace(
        findings.noted(*run_off(off, silent)),
        endless=max(far, default=0.0),
        ends=findings.ends | {name for name, _ in off},
    )
    aside = {*off, *still}
    if settled and len(aside) < ground.around.size:
        ground, found, curved = _beside_zero(ground, found, information, zero)
        findings = findings if curved is None else _curved(findings, ground, found, curved, aside)
    return findings


def _beside_zero(
    ground: Ground, found: Expectation, information: Tensor, zero: Sequence[Entry]
) -> tuple[Ground, Expectation, Tensor | None]:
    """Lift scales that are zero: what complete data say of the rest is finite there; None where it is not."""
    if not zero:
        return ground, found, information
    ground, _ = lifted(ground, zero)
    found = ground.found()
    curved = ground.curvature_of_q(found)
    return ground, found, curved if curved is not None and bool(torch.isfinite(curved).all()) else None


def _curved(
    findings: Findings, ground: Ground, found: Expectation, information: Tensor, aside: Collection[Entry]
) -> Findings:
    """Add how the objective is curved, and along what it is flat; of many coordinates, first by a glimpse."""
    if ground.around.size > MANY:
        first, dear = glimpse(ground, found, information, aside), EVALUATIONS * ground.around.size
        if first.smallest >= SUSPECT:
            return findings
        if dear * evaluated(ground.problem) > CLOSER * DEAR:
            least = first.moving(first.empty if first.empty.shape[1] else first.basis @ first.vectors[:, :1])
            share = f"{first.smallest:.2g} of the curvature in complete data"
            return findings.noted(f"next to flat, and not looked at any closer: {share} is left along {named(least)}")
    top = peak(ground, found, information, aside)
    if top is None:
        return findings
    if many := top.flat.shape[1]:
        ways = "one direction" if many == 1 else f"{many} directions"
        moving = top.moving(top.flat)
        hint = drawn_seldom(ground.problem, {name for name, _ in moving})
        flat = f"not identified: the objective is flat along {ways}, of {named(moving)}"
        return findings.noted(flat, *([hint] if hint else []))
    if aside or top.ground is not ground or top.kinks.shape[1]:
        return findings
    return replace(findings, least=top.smallest, left=top.decrement)
