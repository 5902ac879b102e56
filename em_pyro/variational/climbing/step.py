"""The theorem of variational Bayes on the plan of EM: one step, and the bound that it ascends."""

from __future__ import annotations

from ...e_step.expectation import Expectation
from ...fit.problem import Problem
from ...program.named import batched
from ...reading.bound import Bound
from ..conjugate import Conjugate
from ..laws import AtLaws, Held, bound_to, divergence, points_of


def step(problem: Problem, laws: tuple[Conjugate, ...], bound: Bound, held: Held | None) -> tuple[AtLaws, Expectation]:
    """Take one step of variational Bayes: EM with laws in place of points.

    With site factors `L_s(z_s; theta)` of the log-joint, linear in natural parameters `eta_s(theta)`:

        E-step.  W_s = d log Z / d L_s at E_q eta;  S_s = <W_s, T_s(x)>.
        M-step.  q(theta) has the hyperparameters of the prior, with sum_s S_s added.

    A precision and a mean that meet have laws of their own; that of the precision is found after the other.
    Where sums have too few digits at the new laws, they are taken once more around these, as in EM.

    Args:
        problem: of the E-step.
        laws: conjugate priors of all parameters.
        bound: laws, or at the start points.
        held: the laws so far; None at the start.

    References:
        Beal (2003), Variational algorithms for approximate Bayesian inference, theorem 2.2.
        Bishop (2006), Pattern Recognition and Machine Learning, section 10.2.
    """
    found = problem.expect(bound)
    new = bound_to(_updated(laws, found, bound, held), problem.engine.recognition.bank)
    short = problem.engine.digits(bound, new)
    if short is not None and bool(short[0] > 1):
        found = problem.expect(bound, new)
        new = bound_to(_updated(laws, found, bound, held), problem.engine.recognition.bank)
    return new, found


def _updated(laws: tuple[Conjugate, ...], found: Expectation, bound: Bound, held: Held | None) -> Held:
    before = {each: None for each in laws} if held is None else dict(held)
    new = {each: each.updated(found.sums, bound, before[each]) for each in laws if not each.last}
    if len(new) < len(laws):
        there = [*new.items()]
        about = AtLaws({**bound.batch, **batched(points_of(there))}, bound.bank, held=there)
        new |= {each: each.updated(found.sums, about, before[each]) for each in laws if each.last}
    return [(each, new[each]) for each in laws]


def level(found: Expectation, at: AtLaws) -> float:
    """Return the evidence bound, in nats: `log Z` at expected natural parameters, less the divergence of the laws."""
    return float(found.log_evidence) - float(divergence(at.held))
