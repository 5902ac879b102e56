"""Sites with a prior: a latent continuous value outside the data plates is fitted; its density joins the objective.

A conjugate prior has the form of the likelihood that it meets, so it enters the closed form as pseudo-statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from ..program.masks import masks_of
from ..program.named import Batch, unwrap
from ..program.site import Site

# distribution -> solver whose statistics it adds to, and the pseudo-statistics from its arguments
CONJUGATE = {
    dist.Dirichlet: ("counts", lambda d: (d.concentration - 1, torch.zeros_like(d.concentration))),
    dist.Beta: ("counts", lambda d: (d.concentration1 - 1, d.concentration0 - 1)),
    dist.Gamma: ("rates", lambda d: (d.concentration - 1, d.rate)),
    dist.Exponential: ("rates", lambda d: (torch.zeros_like(d.rate), d.rate)),
    dist.Normal: ("normal", lambda d: (d.loc / d.scale**2, d.scale**-2)),
}


@dataclass(frozen=True)
class Prior:
    """The prior of one parameter.

    Attributes:
        fn: the distribution, if its arguments are known; None if they depend on parameters (the model is replayed).
        solver: the closed form that it is conjugate to, if any.
        pseudo: the two pseudo-statistics of every entry, shapes of the parameter.
    """

    name: str
    fn: Distribution | None = field(repr=False)
    scale: float
    solver: str | None
    pseudo: tuple[Tensor, Tensor] | None = field(repr=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of constrained values (no Jacobian), one for each start, summed over their entries."""
        assert self.fn is not None
        log_prob = self.fn.log_prob(value)
        return self.scale * log_prob.reshape((len(value), -1)).sum(-1)


def read_priors(runs: Sequence[Mapping[str, Site]]) -> dict[str, Prior]:
    """Read the priors of a program from its runs at several parameter values."""
    priors = {}
    for name, site in runs[0].items():
        if site.role != "prior":
            continue
        inner = unwrap(site.fn)
        fixed = all(_same_arguments(site.fn, run[name].fn) for run in runs[1:])
        plain = not masks_of(site) and not isinstance(site.scale, Tensor)
        if not (fixed and plain):
            priors[name] = Prior(name, None, 1.0, None, None)
            continue
        solver, pseudo = CONJUGATE.get(type(inner.base), (None, None))
        parts = None
        scale = float(site.scale)
        if pseudo is not None:
            first, second = pseudo(inner.base)
            parts = (scale * first.detach().double(), scale * second.detach().double())
            parts = (parts[0].expand(site.value.shape), parts[1].expand(site.value.shape))
        priors[name] = Prior(name, _detached(site.fn), scale, solver, parts)
    return priors


def log_prior(priors: Mapping[str, Prior], batch: Batch) -> Tensor:
    """Sum of the log-densities of all priors with known arguments, shape `(starts)`."""
    parts = [p.log_prob(batch[p.name]).double() for p in priors.values() if p.fn is not None]
    return sum(parts[1:], parts[0]) if parts else torch.zeros(1, dtype=torch.float64)


def _same_arguments(a: Distribution, b: Distribution) -> bool:
    """Tell whether two distributions of one kind have equal tensors, through all that they wrap."""
    for key, value in vars(a).items():
        other = vars(b).get(key)
        if isinstance(value, Tensor) and not (isinstance(other, Tensor) and torch.equal(value, other)):
            return False
        if isinstance(value, Distribution) and not (isinstance(other, Distribution) and _same_arguments(value, other)):
            return False
    return True


def _detached(fn: Distribution) -> Distribution:
    """Copy a distribution whose tensors carry no gradient: it outlives the run that made it, and its graph must not."""
    fn = copy(fn)
    for key, value in vars(fn).items():
        if isinstance(value, Tensor) and value.requires_grad:
            vars(fn)[key] = value.detach()
        elif isinstance(value, Distribution):
            vars(fn)[key] = _detached(value)
    return fn
