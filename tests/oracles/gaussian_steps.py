"""An E-step and an M-step of a program with Gaussian latents, held to brute force."""

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor

from em_pyro.fit.problem import Problem, prepare
from oracles.engines import distance
from oracles.integrated import Integrated
from oracles.steps import em_step, expect, q
from oracles.tolerances import IDENTITY, SOLVERS


def slope(height: Callable[[Tensor], Tensor], where: Tensor) -> Tensor:
    """The gradient of a function of all parameters side by side."""
    at = where.clone().requires_grad_()
    return torch.autograd.grad(height(at), at)[0]


def check_step(model: Callable[..., Any], args: Mapping[str, Tensor], beginnings: tuple[str, ...] = ("z",)) -> Problem:
    """Compare log evidence and its gradient (Fisher's identity), and find a step at the maximum of `Q`.

    Args:
        model: the program.
        args: by name.
        beginnings: of the names of its latents.
    """
    pyro.clear_param_store()
    problem = prepare(model, (), dict(args), {}, check=True)
    brute = Integrated(model, dict(args), beginnings)
    start, point = brute.start, brute.point(brute.start)
    found = expect(problem.engine, start)
    assert distance(found.objective.squeeze(), brute.objective(start).detach()) < IDENTITY
    mine = slope(lambda at: q(problem.engine, brute.params(at), found), point)
    truth = slope(lambda at: brute.objective(brute.params(at)), point)
    assert distance(mine, truth) < IDENTITY
    assert distance(truth, torch.zeros_like(truth)) > 1e-3
    new, given = em_step(problem.engine, problem.plan, start)[0], brute.given(start)
    left = slope(lambda at: brute.q(brute.params(at), given), brute.point(new))
    assert distance(left, torch.zeros_like(left)) < SOLVERS
    return problem
