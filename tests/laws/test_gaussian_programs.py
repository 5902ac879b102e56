"""Random programs with normal latents against brute force: fifty of them, each checked for all that a step promises."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyro
import pytest
import torch
from oracles.dense import sigma_points
from oracles.engines import distance
from oracles.enumerated import climb
from oracles.integrated import Integrated
from oracles.steps import em_step, expect, q
from oracles.tolerances import IDENTITY, SOLVERS
from programs.gaussian_programs import GaussianProgram, gaussian_program
from torch import Tensor
from torch.distributions import constraints

from em_pyro.e_step.expectation import Expectation
from em_pyro.errors import ObjectiveError
from em_pyro.fit.problem import Problem, prepare

SEEDS = range(50)

EXACT = 10 * IDENTITY
"""Log evidence and its gradient: two ways to them have condition numbers of their own."""

FLAT = 1e-4
"""A scale below it has collapsed."""

MATRIX = constraints.positive_definite

TIMES = 6
"""Rows repeated so often are replaced by fewer that have the same moments."""


@dataclass
class Checked:
    """One random program, the library's answers and brute force."""

    program: GaussianProgram

    @cached_property
    def brute(self) -> Integrated:
        """The program, integrated."""
        return Integrated(self.program.plain, self.program.args, self.program.holes or self.program.latents)

    def prepared(self, args: dict[str, Tensor]) -> Problem:
        """Return the program planned with an empty store."""
        pyro.clear_param_store()
        return prepare(self.program.model, (), args, {}, check=True, continuous=self.program.continuous)

    @cached_property
    def problem(self) -> Problem:
        """The program as the library plans it."""
        return self.prepared(self.program.args)

    @cached_property
    def start(self) -> dict[str, Tensor]:
        """Where everything is asked."""
        return self.brute.start

    @cached_property
    def found(self) -> Expectation:
        """The E-step."""
        return expect(self.problem.engine, self.start)

    @cached_property
    def new(self) -> dict[str, Tensor]:
        """The parameters after one step."""
        return em_step(self.problem.engine, self.problem.plan, self.start)[0]

    @property
    def collapsed(self) -> bool:
        """Whether the step has led to a scale of zero: few rows lie on a plane, and `Q` has no maximum."""
        try:
            new = self.new
            self.brute.objective(new)
        except (ObjectiveError, torch.linalg.LinAlgError):
            return True
        positive = [new[n] for n, domain in self.brute.domains.items() if domain is constraints.positive]
        trils = [new[n] for n, domain in self.brute.domains.items() if domain is constraints.lower_cholesky]
        trils += [torch.linalg.cholesky(new[n]) for n, domain in self.brute.domains.items() if domain is MATRIX]
        sizes = [*positive, *(tril.diagonal(dim1=-2, dim2=-1) for tril in trils)]
        return any(bool((size < FLAT).any()) for size in sizes)

    # ---- what is checked; each yields a line for what is wrong ----

    def integrated(self) -> Iterator[str]:
        """The rule integrates what it should."""
        got = self.problem.program.integrated
        if not all(name.startswith(self.program.latents) for name in got) or not got:
            yield f"integrated: got {sorted(got)}, expected {self.program.latents}"

    def evidence(self) -> Iterator[str]:
        """Log evidence plus log prior."""
        yield from differ("objective", self.found.objective, self.brute.objective(self.start))

    def fisher(self) -> Iterator[str]:
        """The gradient of `Q` where it was taken is that of the log evidence."""
        point = self.brute.point(self.start)

        def slope(height: Any) -> Tensor:
            at = point.clone().requires_grad_()
            return torch.autograd.grad(height(self.brute.params(at)), at)[0]

        mine = slope(lambda params: q(self.problem.engine, params, self.found))
        yield from differ("gradient", mine, slope(self.brute.objective))

    def m_step(self) -> Iterator[str]:
        """The new parameters are the maximum of `Q`, and the evidence has not fallen."""
        given, allowed = self.brute.given(self.start), SOLVERS
        before, after = (float(self.brute.q(at, given).detach()) for at in (self.start, self.new))
        if not after >= before - EXACT * (1 + abs(before)):
            yield f"M-step: Q fell from {before:.12g} to {after:.12g}"
        old, new = (float(self.brute.objective(at).detach()) for at in (self.start, self.new))
        if not new >= old - EXACT * (1 + abs(old)):
            yield f"M-step: the objective fell from {old:.12g} to {new:.12g}"
        if not all(part.exact for part in self.problem.plan.climbs):
            return
        allowed = SOLVERS * (1 + abs(after))
        gain, ended = climb(
            lambda x: self.brute.q(self.brute.params(x), given), self.brute.point(self.new), allowed, steps=4
        )
        if ended and gain > allowed:
            yield f"M-step: Q is {after:.10g}, and {gain:.3g} higher from there"

    def rows(self) -> Iterator[str]:
        """Rows repeated have their objective as often, and the same step."""
        if not self.program.rows:
            return
        count = min(len(value) for value in self.program.args.values())
        if any(len(value) != count for value in self.program.args.values()):
            return
        many = self.prepared({n: v.repeat(TIMES, *(1,) * (v.dim() - 1)) for n, v in self.program.args.items()})
        new, found = em_step(many.engine, many.plan, self.start)
        yield from differ("objective of repeated rows", found.objective, TIMES * float(self.found.objective))
        for name, value in self.new.items():
            yield from differ(f"step of repeated rows, {name}", new[name], value, SOLVERS)

    def faults(self) -> Iterator[str]:
        """Check everything."""
        others = list(self.integrated())
        if others:
            yield from others
            return
        yield from self.evidence()
        if self.brute.domains:
            yield from self.fisher()
        if self.brute.domains and not self.collapsed:
            yield from self.m_step()
            yield from self.rows()


def differ(what: str, got: Any, want: Any, tolerance: float = EXACT) -> Iterator[str]:
    """Yield a line if two numbers or tables are not the same, relative to `1 + |want|`."""
    gap = distance(torch.as_tensor(got).squeeze(), torch.as_tensor(want).squeeze())
    if not gap <= tolerance:
        yield f"{what}: {gap:.3g} apart, got {torch.as_tensor(got).tolist()}, expected {torch.as_tensor(want).tolist()}"


@pytest.mark.parametrize("seed", SEEDS)
def test_gaussian_program(seed: int) -> None:
    """Nothing is wrong with the program of that number."""
    program = gaussian_program(seed)
    found = list(Checked(program).faults())
    assert not found, "\n".join([*found, str(program)])


# ---- the checks are checked ------------------------------------------------------------------------------------------

ORACLES = (2, 5, 6, 7, 16, 19, 42)
"""Factors, effects, chains, rows with holes and mixtures, with closed forms throughout."""

ROWS = 7
"""Rows with factors."""


@pytest.mark.parametrize("seed", ORACLES)
def test_points_are_moments(seed: int) -> None:
    """`Q` is the mean of the model's own log-joint over points with the mean and the covariance of the latents."""
    brute = Checked(gaussian_program(seed)).brute
    given = brute.given(brute.start)
    points = [_spread(m, V) for m, V in zip(given.means, given.covariances, strict=True)]
    params = brute.params(brute.point(brute.start) + 0.1)
    got = brute.q_by_points(params, points, given.shares)
    assert not list(differ("Q", got.detach(), brute.q(params, given).detach(), IDENTITY))


def _spread(mean: Tensor, covariance: Tensor) -> Tensor:
    """Points of latents, of which some may have no density: these stay where they are."""
    live = covariance.diagonal() != 0
    points = mean.repeat(int(live.sum()) + 1, 1)
    points[:, live] = sigma_points(mean[live], covariance[live][:, live])
    return points


@pytest.mark.parametrize("seed", ORACLES[1:4])
def test_a_fault_is_noticed_by_each_check(seed: int) -> None:
    """Brute force of other data disagrees with everything that is asked of the right ones."""
    right, wrong = (Checked(gaussian_program(seed)) for _ in range(2))
    data = "x" if "x" in right.program.args else "y"
    moved = {**right.program.args, data: right.program.args[data] + 0.01}
    wrong.brute = Integrated(right.program.plain, moved, right.program.holes or right.program.latents)
    for checked, faulty in ((right, False), (wrong, True)):
        assert any(checked.evidence()) == faulty
        assert any(checked.fisher()) == faulty
        assert any(checked.m_step()) == faulty


def test_rows_that_are_lost_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where of rows repeated one is lost, and where a covariate that all have counts once."""
    checked = Checked(gaussian_program(ROWS))
    assert not list(checked.rows())
    prepared = checked.prepared
    monkeypatch.setattr(checked, "prepared", lambda args: prepared({n: v[1:] for n, v in args.items()}))
    assert any("objective of repeated rows" in line for line in checked.rows())
