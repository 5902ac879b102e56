"""The class `VariationalEM`: the plan of EM, with laws in place of points."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Integral
from typing import Any

from torch import Tensor

from ..errors import ParameterError
from ..fit.loop import State
from ..fit.problem import Problem, prepare
from ..fit.progress import Bar
from ..fit.starting.starts import need_parameters, starting_points
from ..options import check_model, check_options, check_switches, written
from ..program.devices import beside
from ..program.handlers import alone
from .choose import choose
from .climbing.accelerated import ACCELERATIONS
from .climbing.climb import Climb, climb
from .fit import VariationalFit
from .laws import AtLaws, means_of


class VariationalEM:
    """Mean-field variational Bayes on an ordinary Pyro model: every parameter has a law, not a value.

    `q(z) q(theta)` with the exact law of all latents together and conjugate laws of the parameters. Steps are those of
    EM, on the same plan of the E-step: it is taken at expected natural parameters, and its statistics are added to the
    prior's. The bound on the evidence never falls.

    Args:
        model: a Pyro model whose latent variables are discrete; all its parameters need a conjugate prior.
        priors: of parameters that have none in the program, by name: a Dirichlet on rows of probabilities, a Beta on
            single ones, a Gamma on rates or precisions, an InverseGamma on variances, a Normal or MultivariateNormal on
            a mean or on rows of coefficients of a linear regression with known noise, `StickBreaking` on weights; by
            the names of a mean and its scale, `{("loc", "scale_tril"): NormalWishart(...)}`, the same where means share
            the scale. Arguments are broadcast to the parameter.
        tol: a fit has converged when its estimated remaining gain is below `tol * (1 + |bound|)` nats on two successive
            steps; 0 runs exactly `max_steps`.
        max_steps: cap on the steps of one start.
        seed: of random starts.
        starts: as for `EM`: how many, or values. The posterior of the latents at these values makes the first laws.
        check: compare the enumerated program with concrete runs before the first step.
        progress: show a progress bar.
        callback: called with a `State` after every step, whose objective is the bound and whose params are the means;
            returning True stops.
        acceleration: "squarem" extrapolates the hyperparameters of all laws together (Varadhan & Roland 2008), never
            to where the bound is lower; "auto" begins so when the plain steps still to come would be many; None takes
            plain steps.

    References:
        Attias (1999), Inferring parameters and structure of latent variable models by variational Bayes, UAI.
        Beal (2003), Variational algorithms for approximate Bayesian inference, PhD thesis, UCL.
        Bishop (2006), Pattern Recognition and Machine Learning, chapter 10.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        priors: Mapping[Any, Any] | None = None,
        *,
        tol: float = 1e-8,
        max_steps: int = 1000,
        seed: int = 0,
        starts: int | Mapping[str, Any] | Sequence[Mapping[str, Any]] = 1,
        check: bool = True,
        progress: bool = False,
        callback: Callable[[State], Any] | None = None,
        acceleration: str | None = "auto",
    ) -> None:
        """Take the model, the priors and the options; nothing runs yet."""
        check_model("VariationalEM", model)
        if not (priors is None or isinstance(priors, Mapping)):
            raise ParameterError(f"VariationalEM: expected priors to be a dict by parameter name, got {priors!r}.")
        check_options(tol, max_steps, seed, starts, None, callback, None)
        check_switches(check=check, progress=progress)
        if not (acceleration is None or isinstance(acceleration, str) and acceleration in ACCELERATIONS):
            raise ParameterError(
                f'VariationalEM: expected acceleration to be None, "auto" or "squarem", got {acceleration!r}.'
            )
        self.model, self.priors = model, dict(priors or {})
        self.tol, self.max_steps, self.seed = tol, int(max_steps), int(seed)
        self.starts = int(starts) if isinstance(starts, Integral) else starts
        self.check, self.progress, self.callback, self.acceleration = check, progress, callback, acceleration

    def __repr__(self) -> str:
        """Return the model, the priors and the options that are not their defaults."""
        return written(self)

    @alone()
    def fit(self, *args: Any, **kwargs: Any) -> VariationalFit:
        """Iterate from every start to its end, and return the laws with the highest bound.

        The param store stays as it is: it holds values, and there are laws.

        Args:
            args: go to the model.
            kwargs: the same by name.

        Raises:
            ModelError: the program is one that cannot be treated exactly; or it has no parameters.
            DataError: the data cannot be used.
            ParameterError: an option, a prior or a start does not fit.
            PlanError: a parameter has no conjugate prior.
            ObjectiveError: the bound fell, or is not finite.
        """
        problem = prepare(self.model, args, kwargs, {}, check=self.check)
        need_parameters(problem)
        with beside(problem.program.device):
            laws = choose(problem.engine, self.priors)
            points = starting_points(problem, self.starts, self.seed)
            bar = Bar(len(points), self.tol, self.max_steps) if self.progress else None
            told = partial(self._told, bar)
            try:
                go = partial(climb, problem, laws, tol=self.tol, max_steps=self.max_steps, told=told)
                ends = [go(point, due=ACCELERATIONS[self.acceleration]) for point in points]
            finally:
                if bar is not None:
                    bar.close()
            return _answer(problem, ends, self.priors, self.tol)

    def _told(self, bar: Bar | None, step: int, level: float, now: AtLaws) -> Any:
        """Tell whoever watches of the laws reached."""
        if bar is not None:
            bar.reached(step, level)
            bar.update(1)
        if self.callback is None or not step:
            return None
        means: dict[str, Tensor] = {name: value.clone() for name, value in means_of(now.held).items()}
        return self.callback(State(step, level, means))


def _answer(problem: Problem, ends: Sequence[Climb], priors: Mapping[Any, Any], tol: float) -> VariationalFit:
    best = max(ends, key=lambda end: end.path[-1])
    return VariationalFit(
        elbo=best.path[-1],
        path=best.path,
        num_steps=best.num_steps,
        outcome=best.outcome,
        gap=best.gap,
        notes=best.notes,
        acceleration=best.acceleration,
        starts=tuple((end.path[-1], end.outcome) for end in ends),
        held=tuple(best.bound.held),
        prepared=problem,
        priors=priors,
        tol=tol,
    )
