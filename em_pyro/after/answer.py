"""The answer: the best end of all starts, looked at closer and measured on the user's model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from ..e_step.expectation import Expectation
from ..fit.certificate import before_an_edge, certify
from ..fit.endings import BAD
from ..fit.notes import not_fitted
from ..fit.path import Path
from ..fit.problem import Problem
from ..fit.rows.everywhere import measured
from ..fit.starting.ends import ranked
from ..fit.starting.runs import SAME_MAXIMUM, Start, Starts, local_maxima
from ..program.data.check import has_density_outside
from ..program.data.counts import limit
from ..program.data.supports import at_its_bound, unlawful
from ..program.named import Params, alike, batched, listed, only, unwrap
from ..program.site import Site
from ..program.unroll import user_site
from .fit import Fit
from .fitted import write_back

LOOKED_AT = ("converged", "unconfirmed", "step limit")  # endings that get a closer look
MEASURED_AGAIN = 1e-8  # relative to 1 + |log evidence|: rounding between the loop and the model itself
BEYOND = 1e-9  # a bound of an argument: what rounding may be
EPS = 2 * torch.finfo(torch.float64).eps


def answer(problem: Problem, paths: Sequence[Path], *, tol: float, measure: bool = True) -> Fit:
    """Rank the ends of all starts; look closer at the best, and measure it on the user's program, if `measure`."""
    top = paths[ranked(paths)[0]]
    closely = measure and top.e_step == "soft"  # others end at no maximum of the likelihood, and nothing certifies one
    level = top.level - SAME_MAXIMUM * (1 + abs(top.level))
    same = (path.level >= level and path.outcome == top.outcome and path.repeats is None for path in paths)
    reached = [i for i, found in enumerate(same) if found]
    best = paths[reached[0]]  # of equals the first, whose labels are the user's
    params = write_back(problem, best.params)
    bound = problem.bind(batched({name: value.double() for name, value in params.items()}))
    prior = float(problem.log_prior(bound))
    found = problem.expect(bound) if measure else None
    evidence = best.level - prior if found is None else float(found.log_evidence)
    best = best._replace(notes=(*not_fitted(problem.engine), *best.notes))
    rounding = 0.0
    if closely and best.outcome in LOOKED_AT:
        best, rounding = confirmed(problem, best, tol, found, only(bound.batch))
        if others := _others(paths, reached[0], best):
            return answer(problem, others, tol=tol)
    if closely:
        best, evidence = _measured(problem, best, params, evidence, rounding)
    ends = [best if i == reached[0] else path for i, path in enumerate(paths)]
    starts = tuple(Start(i, p.level, p.outcome, p.num_steps, p.repeats) for i, p in enumerate(ends))
    return Fit(
        fitted=params,
        log_likelihood=evidence,
        objective=top.level if top.e_step == "hard" else evidence + prior,
        path=best.trail,
        num_steps=best.num_steps - (best.outcome == "averaged"),
        outcome=best.outcome,
        converged=best.converged or best.outcome == "settled",
        gap=best.gap,
        starts=Starts(starts, reached[0], len(reached), local_maxima(starts, [path.params for path in ends])),
        plan=replace(problem.plan, solvers=(), callables={}),  # what it says, without the data that solvers hold
        notes=best.notes,
        prepared=problem,
        acceleration=None if best.spent is None else best.spent.summary,
        switches=best.switches,
        prior_density="unconstrained" if problem.program.unconstrained else "constrained",
    )


def confirmed(problem: Problem, path: Path, tol: float, found: Expectation | None, of: Params) -> tuple[Path, float]:
    """Look closer at the end of a path: note what is found, and doubt one whose slope is not that of a maximum.

    Args:
        problem: the program.
        path: to the end.
        tol: of the fit.
        found: an E-step, if it has been run.
        of: the parameters that it was run at: those of the end, but where the program is not in double precision.

    Returns:
        The path, and by how much its log evidence may be rounding when the model itself measures it.
    """
    seen = path.findings if path.converged else None
    if seen is None:
        if found is None or not alike(of, path.params):
            found = problem.expect(problem.bind(batched(path.params)))
        seen = certify(problem, path.params, found, tol, settled=path.outcome != "step limit")
    path = path._replace(notes=(*path.notes, *seen.notes, *(_limits(problem, path.params) if seen.endless else ())))
    doubt = seen.doubt(path.level, tol) if path.outcome != "step limit" and tol > 0 else ""
    if path.outcome != "step limit" and (why := _draws_together(problem, path, seen.ends, doubt)):
        return path.ended("degenerate", why), 0.0
    if doubt or path.converged:
        edge = _at_an_edge(problem, path.params, sure=bool(doubt))
        doubt = "; ".join(filter(None, (doubt, edge, _untold(problem))))
    return path.doubted(doubt) if doubt else path, _digits(problem, seen.endless)


def _untold(problem: Problem) -> str:
    """Say along which parameters no slope is known, so that none tells a maximum; empty if there are none."""
    names = [f'"{name}"' for name in problem.plan.free if name in problem.engine.full.recognition.cut]
    return f"no slope by {listed(names)} is known, so that nothing tells a maximum" if names else ""


def _at_an_edge(problem: Problem, params: Params, *, sure: bool) -> str:
    """Say what ends beside the fit: the support of a site, or the density; empty if nothing does.

    Args:
        problem: the program.
        params: of the fit.
        sure: whether it is known to be no maximum.
    """
    site, (edge, ending) = _bounded(problem, params), before_an_edge(problem, params)
    if site and (sure or edge):
        return (
            f'site "{site}": beyond these values its support leaves out what was observed. The maximum is at such a '
            f"bound, where no slope is zero: keep what bounds a support known, as the smallest value does"
        )
    if ending:
        return f"the model has no density a step farther along {ending}, up its slope: give it a prior, or bounds"
    return ""


def _limits(problem: Problem, params: Params) -> list[str]:
    """Say which sites are next to another family, since a number runs to infinity."""
    with torch.no_grad():
        sites = problem.program.run(params)
    kinds: dict[tuple[str, str], list[str]] = {}
    for site in sites.values():
        if site.role == "observed" and (family := limit(site.fn, site.value)):
            kinds.setdefault((family, type(unwrap(site.fn).base).__name__), []).append(f'"{user_site(site.name)}"')
    return [
        f"site{'s' * (len(names) > 1)} {listed(names)}: in some state {kind} is next to its limit, {family}, whose "
        f"log-likelihood this is: write {family} there, or give what runs off a prior"
        for (family, kind), names in kinds.items()
    ]


def _draws_together(problem: Problem, path: Path, ends: frozenset[str], doubt: str) -> str:
    """Say which density draws together onto a value, so that the likelihood has no bound; empty if none does.

    Args:
        problem: the program.
        path: to the end that is looked at.
        ends: parameters at a boundary, or on their way to infinity.
        doubt: why it is no maximum, if it is none.
    """
    shapes = problem.scales.shapes
    why = shapes.collapsed(path.params)
    if not why and (doubt or ends) and (name := shapes.of_equal_values(path.params, () if doubt else ends)):
        why = f'site "{name}": all rows have one value, onto which its density draws together; give it a prior'
    return "; ".join(filter(None, (why, doubt))) if why else ""


def _others(paths: Sequence[Path], at: int, ended: Path) -> list[Path]:
    """All ends, if that which seemed the best is none and others are left that may be; else nothing."""
    ends = [ended if i == at else path for i, path in enumerate(paths)]
    return ends if ended.outcome in BAD and any(path.outcome not in BAD for path in ends) else []


def _measured(problem: Problem, path: Path, params: Params, evidence: float, rounding: float) -> tuple[Path, float]:
    """Measure the log evidence by the model itself, which is right where the loop has another one, and has to be one.

    In single precision the model rounds more than the loop does: only that it has a value is asked of it.
    """
    again = measured(problem, params)
    if again is None:
        return path, evidence
    if math.isfinite(evidence) and not math.isfinite(again):
        return path.doubted(f"the model itself gives log-likelihood {again} at the fitted values"), evidence
    if wrong := _outside(problem, params):
        path = path.doubted(wrong)
    if any(p.initial.dtype != torch.float64 for p in problem.program.parameters.values()):
        return path, evidence
    if abs(again - evidence) > MEASURED_AGAIN * (1 + abs(evidence)):
        if abs(again - evidence) <= rounding:
            return path, evidence
        both = f"{again:.9g} at the fitted values, the loop {evidence:.9g}"
        path = path.doubted(f"the model itself gives log-likelihood {both}")
    return path, again if again == again else evidence


def _digits(problem: Problem, endless: float) -> float:
    """Return how much of the log evidence may be rounding of the model's own where a number runs to infinity.

    Densities of torch are differences there: of log-gamma functions, say, of this number.
    """
    run = problem.engine.full.recognition.runs[0]
    entries = sum(site.value.numel() for site in run.values() if site.role == "observed") * problem.rows.times
    return EPS * endless * math.log1p(endless) * entries


def _bounded(problem: Problem, params: Params) -> str:
    """Return a site that no family recognises, of which a value lies at the bound of its support; or nothing."""
    return next((name for name, site in _written(problem, params).items() if at_its_bound(site.fn, site.value)), "")


def _outside(problem: Problem, params: Params) -> str:
    """Say which site that no family recognises has moved off its values, or its arguments off the law; else nothing."""
    sites = _written(problem, {name: value.double() for name, value in params.items()})
    for name, site in sites.items():
        if has_density_outside(site):
            return (
                f'site "{name}": at the fitted values its support leaves out what was observed, and its density does '
                f"not; keep the parameter that bounds the support fixed, or give it a constraint"
            )
        if wrong := unlawful(site.fn, BEYOND):
            return f'site "{name}": at the fitted values {wrong}; give its parameter a constraint'
    return ""


def _written(problem: Problem, params: Params) -> dict[str, Site]:
    """Run the model for the observed sites that no family recognises: those, at `params`, by name."""
    names = [name for name in problem.engine.written if name not in problem.program.latents]
    if not names:
        return {}
    with torch.no_grad():
        sites = problem.program.run(params)
    return {name: sites[name] for name in names if name in sites}
