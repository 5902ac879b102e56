"""Random programs against brute force: fifty of them, each checked for all that EM promises."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from math import isfinite
from typing import Any

import pyro
import pytest
import torch
from oracles.enumerated import Enumerated, climb
from oracles.oracle import brute_force
from oracles.tolerances import IDENTITY, SOLVERS
from programs.random_programs import RandomProgram, random_program
from torch import Tensor

from em_pyro import EM, Fit
from em_pyro.errors import ObjectiveError
from em_pyro.fit.endings import BAD

RARE = (603, 5157, 5042, 5139, 20012, 20101)
"""A scale that a step makes vanish; a state of which rows leave next to nothing; climbs whose longest step was another
where rows are repeated, and where they are merged; a Beta that runs to infinity; a Weibull whose power overflows."""
SEEDS = (*range(50), *RARE)

EXAMPLE = 40  # rows with one latent, closed forms throughout

TILES = 24  # rows repeated so often are enough for equal ones to be merged


@dataclass
class Checked:
    """One random program, the library's answers and brute force."""

    program: RandomProgram

    @cached_property
    def brute(self) -> Enumerated:
        """The program, enumerated."""
        return Enumerated(self.program.plain, self.program.args, by_row=self.program.weighted)

    @property
    def exact(self) -> float:
        """Rounding, by the dtype of the program."""
        return IDENTITY if self.program.dtype == torch.float64 else 2e-5

    @property
    def solved(self) -> float:
        """What a solver may leave, by the dtype of the program."""
        return SOLVERS if self.program.dtype == torch.float64 else 1e-4

    def em(self, **options: Any) -> EM:
        """Return a driver with an empty store."""
        pyro.clear_param_store()
        torch.set_default_dtype(self.program.dtype)
        return EM(self.program.model, **options)

    def short(self, args: dict[str, Tensor], start: dict[str, Tensor], **options: Any) -> list[float]:
        """Return the objective of two steps from given values, as far as it has its digits.

        At an ending that is no maximum, a scale that has collapsed, it has lost them.
        """
        fit = self.em(starts=start, tol=0, max_steps=2, check=False, **options).fit(**args)
        torch.set_default_dtype(torch.float64)
        return list(fit.path[: len(fit.path) - (fit.outcome in BAD)])

    def maxima(self, start: dict[str, Tensor]) -> int:
        """Count the steps from given values, two at most, whose `Q` has a maximum."""
        em = self.em(starts=start)
        for step in range(2):
            shares = self.brute.shares(doubled(em.posterior(**self.program.args).params))
            try:
                em.step(**self.program.args)
            except ObjectiveError:
                return step
            point = self.brute.point(doubled(em.params))
            if not climb(
                partial(self._q, shares=shares), point, self.solved * (1 + abs(float(self._q(point, shares))))
            )[1]:
                return step
        return 2

    def _q(self, point: Tensor, shares: Tensor) -> Tensor:
        return self.brute.q(self.brute.params(point), shares)

    # ---- what is checked; each yields a line for what is wrong ----

    def posterior(self, em: EM) -> Iterator[str]:
        """Evidence and marginals at the start."""
        law = em.posterior(**self.program.args)
        here = doubled(law.params)
        yield from differ("evidence", law.log_evidence, self.brute.evidence(here), self.exact)
        marginals, exact = self.brute.marginals(here), self.exact + self.brute.rounding(here)
        if self.program.spelt:
            states = [marginals[n] for n in marginals if n.startswith("s_")]
            yield from differ("marginals", law.marginal("x1"), torch.stack(states, -2), exact)
            return
        for name, want in marginals.items():
            plain = name.removesuffix("_unobserved")
            if plain != name:
                told, label = self.program.args["told"], self.program.args["label"]
                want = torch.where(told[:, None], torch.eye(want.shape[-1])[label], want)
            got = law.marginal(plain)
            yield from differ(f"marginal of {plain}", got, want.reshape(got.shape), exact)

    def m_step(self, em: EM) -> Iterator[str]:
        """One step: the loss before it, and a `Q` from which Newton's method climbs no further."""
        here = doubled(em.posterior(**self.program.args).params)
        loss = em.step(**self.program.args)
        new = doubled(em.params)
        shares = self.brute.shares(here)
        yield from differ("loss", -loss, float(self.brute.objective(here)), self.exact)
        if not isfinite(float(self.brute.objective(new))):
            return  # Q has no bound, and the step has left the numbers: what a fit says of that is looked at
        before, after = (float(self.brute.q(at, shares)) for at in (here, new))
        allowed = self.solved * (1 + abs(after))
        beside = {name: value * (1 + 4 * torch.finfo(value.dtype).eps) for name, value in new.items()}
        if not abs(float(self.brute.q(beside, shares)) - after) <= allowed:  # Q has no bound, and no digits there
            with pyro.get_param_store().scope():
                fit = self.em(max_steps=6, check=False).fit(**self.program.args)
            torch.set_default_dtype(torch.float64)
            yield from [] if fit.outcome in BAD else [f"M-step: Q has no digits, and the fit is {fit.outcome}"]
            return
        if not after >= before - self.exact * (1 + abs(before)):
            yield f"M-step: Q fell from {before:.10g} to {after:.10g}"
        if not all(part.exact for part in em.plan(**self.program.args).climbs):
            return
        gain, ended = climb(partial(self._q, shares=shares), self.brute.point(new), allowed)
        if ended and gain > allowed:  # where Q has no bound, a cell with one row, there is no maximum to compare with
            yield f"M-step: Q is {after:.10g}, and {gain:.3g} higher from there"

    def fitted(self, fit: Fit, kind: str) -> Iterator[str]:
        """A whole fit: no fall, the objective that it says, and where it converged nothing left to climb."""
        there = doubled(fit.params)
        for a, b in zip(fit.path, fit.path[1:], strict=False):
            if not b >= a - max(self.exact / 10, IDENTITY) * (1 + abs(a)):
                yield f"{kind}: the objective fell from {a:.12g} to {b:.12g}"
        if fit.outcome == "degenerate" or any("lost its digits" in note for note in fit.notes):
            yield from [f"{kind}: converged where digits are lost"] if fit.converged else []
            return
        reached = float(self.brute.objective(there))
        if not isfinite(reached) and not fit.converged:
            return  # the model itself has no value there
        lost = 0.0 if fit.converged else self.lost(there)
        yield from differ(f"{kind}: objective ({fit.outcome})", fit.objective, reached, self.exact + lost)
        if fit.converged:
            allowed = self.solved * (1 + abs(reached))
            gain, ended = climb(lambda x: self.brute.objective(self.brute.params(x)), self.brute.point(there), allowed)
            if ended and gain > allowed:  # a likelihood without bound has maxima, and higher points beside them
                yield f"{kind}: converged at {reached:.10g} (gap {fit.gap:.1e}), and {gain:.3g} higher from there"

    def lost(self, there: dict[str, Tensor]) -> float:
        """Return what the last digits of parameters on their way to infinity move the objective by, relative to it."""
        here, last = float(self.brute.objective(there)), 4 * torch.finfo(torch.float64).eps
        beside = (
            {name: value * (1 + by) for name, value in there.items()} for by in (-2 * last, -last, last, 2 * last)
        )
        return max(abs(float(self.brute.objective(at)) - here) for at in beside) / (1 + abs(here))

    def rows(self, start: dict[str, Tensor], path: list[float]) -> Iterator[str]:
        """Rows permuted, and repeated, where equal ones are merged or are not.

        Values are compared as far as both are known. An M-step whose `Q` has no maximum ends where rounding says.
        """
        args, count = self.program.args, len(next(iter(self.program.args.values())))
        order = torch.arange(count).flip(0)
        pairs = [] if self.program.adds else [("permuted", self.short(picked(args, order), start), path)]
        tiled = picked(args, order.repeat(TILES))
        merged = self.short(tiled, start)
        pairs.append(("collapsed", merged, self.short(tiled, start, collapse=False)))
        if self.program.adds:
            pairs.append(("permuted and repeated", merged, [TILES * value for value in path]))
        found = list(self._apart(pairs, 3))
        yield from self._apart(pairs, 1 + self.maxima(start)) if found else ()

    def _apart(self, pairs: list[tuple[str, list[float], list[float]]], most: int) -> Iterator[str]:
        for name, one, other in pairs:
            for a, b in islice(zip(one, other, strict=False), most):
                yield from differ(name, a, b, self.solved)

    def faults(self) -> Iterator[str]:
        """Check everything; fits are plain or accelerated by turns, and short where torch or sweeps maximise."""
        args = self.program.args
        em = self.em()
        yield from self.posterior(em)
        start = begun = {name: value.clone() for name, value in em.params.items()}
        with suppress(ObjectiveError):  # no step is defined: a fit has to say so
            yield from self.m_step(em)
            start = {name: value.clone() for name, value in em.params.items()}
        defined = start is not begun and isfinite(float(self.brute.objective(doubled(start))))
        plan = em.plan(**args)
        quick = {"closed form", "Newton"}.issuperset(line.how for line in plan.lines.values())
        kind = "squarem" if quick and self.program.seed % 2 else None
        start = start if defined else begun
        pyro.clear_param_store()
        torch.set_default_dtype(self.program.dtype)
        em.starts, em.acceleration, em.max_steps = start, kind, 60 if quick else 6  # planned already
        try:
            fit = em.fit(**args)
        except ObjectiveError as why:
            yield from [] if "it has run off" in str(why) else [f"fit: {why}"]
            return
        yield from self.fitted(fit, "accelerated fit" if kind else "fit")
        if not defined and fit.outcome not in BAD:
            yield f"{fit.outcome}, though the first step leads to where there is no objective"
        if self.program.rows and defined:
            path = list(fit.path[:3]) if not kind and len(fit.path) > 3 else self.short(args, start)
            yield from self.rows(start, path)


def doubled(params: Any) -> dict[str, Tensor]:
    """Return parameters in float64, which is the default from now on."""
    torch.set_default_dtype(torch.float64)
    return {name: value.detach().double() for name, value in params.items()}


def picked(args: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """Return the arguments at some rows."""
    return {name: value[rows] for name, value in args.items()}


def differ(what: str, got: Any, want: Any, tolerance: float) -> Iterator[str]:
    """Yield a line if two numbers or tables are not the same, relative to `1 + |want|`."""
    a, b = torch.as_tensor(got).detach().double(), torch.as_tensor(want).detach().double()
    gap = float(((a - b).abs() / (1 + b.abs())).max()) if a.shape == b.shape else float("inf")
    if not gap <= tolerance:
        yield f"{what}: got {a.tolist()}, expected {b.tolist()}"


@pytest.mark.parametrize("seed", SEEDS)
def test_random_program(seed: int) -> None:
    """Nothing is wrong with the program of that number."""
    program = random_program(seed)
    found = list(Checked(program).faults())
    assert not found, "\n".join([*found, str(program)])


# ---- the checks are checked ------------------------------------------------------------------------------------------

ORACLES = (1, 6, 8, 11, 15, 31, 37, 42)
"""Programs of every skeleton, with weights, masks and priors, and few assignments."""


@pytest.mark.parametrize("seed", ORACLES)
def test_one_run_is_many(seed: int) -> None:
    """All assignments in one run have the objective and the marginals of a run for each."""
    brute = Checked(random_program(seed)).brute
    joint = brute_force(brute.model, kwargs=brute.args, params=brute.start)
    assert not list(differ("objective", brute.objective(brute.start), joint.log_evidence, IDENTITY))
    for name, want in joint.marginals.items():
        assert not list(differ(name, brute.marginals(brute.start)[name], want, IDENTITY))


def test_a_fault_is_noticed_by_each_check() -> None:
    """Brute force of other data disagrees with everything that is asked of the right ones."""
    program = random_program(EXAMPLE)
    right, wrong = Checked(program), Checked(program)
    moved = {**program.args, "x1": program.args["x1"] + 0.1}
    wrong.brute = Enumerated(program.plain, moved, by_row=program.weighted)
    fit = right.em().fit(**program.args)
    short = replace(fit, path=fit.path[::-1])
    early = right.em(tol=1e-2).fit(**program.args)
    for checked, faulty in ((right, False), (wrong, True)):
        assert any(checked.posterior(checked.em())) == faulty
        assert any(checked.m_step(checked.em())) == faulty
        assert any(checked.fitted(fit, "fit")) == faulty
    assert "fell" in "".join(right.fitted(short, "fit"))
    assert "higher from there" in "".join(right.fitted(early, "fit"))


@pytest.mark.parametrize("where", ["collapsed", "permuted"])
def test_lost_rows_are_noticed(where: str) -> None:
    """Where rows that are not merged lose one, or repeated ones do."""
    program = random_program(EXAMPLE)
    few = len(program.args["x1"])

    class Losing(Checked):
        def short(self, args: dict[str, Tensor], start: dict[str, Tensor], **options: Any) -> list[float]:
            count = len(args["x1"])
            lost = "collapse" in options if where == "collapsed" else count > few
            return super().short(picked(args, torch.arange(int(lost), count)), start, **options)

    checked = Losing(program)
    start = doubled(checked.em().posterior(**program.args).params)
    path = Checked(program).short(program.args, start)
    assert any(line.startswith(where) for line in checked.rows(start, path))
    assert not list(Checked(program).rows(start, path))
