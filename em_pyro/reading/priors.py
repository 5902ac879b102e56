"""Sites with a prior: a latent continuous value outside the data plates is fitted; its density joins the objective.

A conjugate prior has the form of the likelihood that it meets, so it enters the closed form as pseudo-statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import field, replace
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from ..program.changes.lost import arguments_of
from ..program.masks import masks_of
from ..program.named import Batch, unwrap
from ..program.site import Site
from ..program.volume import Unconstrained
from ..recording.defined import Defined
from ..records.frozen import frozen

LOCATIONS = ("normal", "multivariate_normal")

# distribution -> solvers whose statistics it adds to; the pseudo-statistics from its arguments; and what the volume of
# unconstrained coordinates adds to them: `sum_k log p_k` of a simplex, `log p + log(1 - p)`, `log` of a rate
CONJUGATE = {
    dist.Dirichlet: (("counts",), lambda d: (d.concentration - 1, torch.zeros_like(d.concentration)), (1, 0)),
    dist.Beta: (("counts",), lambda d: (d.concentration1 - 1, d.concentration0 - 1), (1, 1)),
    dist.Uniform: (("counts",), lambda d: (torch.zeros_like(d.low), torch.zeros_like(d.low)), (1, 1)),
    dist.Gamma: (("rates",), lambda d: (d.concentration - 1, d.rate), (1, 0)),
    dist.Exponential: (("rates",), lambda d: (torch.zeros_like(d.rate), d.rate), (1, 0)),
    dist.Normal: (LOCATIONS, lambda d: (d.loc / d.scale**2, d.scale**-2), (0, 0)),
    dist.MultivariateNormal: (
        LOCATIONS,
        lambda d: ((d.precision_matrix @ d.loc[..., None])[..., 0], d.precision_matrix),
        (0, 0),
    ),
}

# (distribution, function through which its value is a scale) -> the solver of scales; by how much it adds to weight and
# scatter of `-n log s - S / (2 s^2)`; and what the volume adds to the former, None where it is of another form
SPREADS = {
    (dist.Gamma, "rsqrt"): ("normal", lambda d: (2 * (d.concentration - 1), 2 * d.rate), 2),
    (dist.Exponential, "rsqrt"): ("normal", lambda d: (torch.zeros_like(d.rate), 2 * d.rate), 2),
    (dist.InverseGamma, "sqrt"): ("normal", lambda d: (2 * (d.concentration + 1), 2 * d.rate), -2),
    (dist.Wishart, "precision"): (
        "multivariate_normal",
        lambda d: (d.df - d.event_shape[-1] - 1, d.precision_matrix),
        None,
    ),
}


@frozen
class Prior:
    """The prior of one parameter.

    Attributes:
        fn: the distribution, masked as the program masks it, if its arguments are known; None if they depend on
            parameters (the model is replayed).
        kind: what the distribution is called.
        scale: exponent of the density, perhaps another for each row.
        flat: whether the density is the same at all values: any closed form is kept.
        unconstrained: whether it is the density of unconstrained coordinates.
        solvers: the closed forms that it is conjugate to, if any.
        pseudo: the two pseudo-statistics of every entry, shapes of the parameter; the second of vectors is a matrix,
            with a dimension more.
        shapes: what computes them instead, where its arguments are selected from other parameters (`Shapes`).
        spreads: of every solver of scales, and function of its value, that it is conjugate to: the weight and the
            scatter that it adds to those of every entry.
    """

    name: str
    fn: Distribution | None = field(repr=False)
    kind: str
    scale: float | Tensor = 1.0
    flat: bool = False
    unconstrained: bool = False
    solvers: tuple[str, ...] = ()
    pseudo: tuple[Tensor, Tensor] | None = field(default=None, repr=False)
    shapes: Any = field(default=None, repr=False)
    spreads: Mapping[tuple[str, str], tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def joins(self) -> bool:
        """Whether it joins the coordinates of a vector, which then have one system of equations."""
        return self.pseudo is not None and self.pseudo[1].dim() > self.pseudo[0].dim()

    def counts(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """Return the pseudo-statistics of every entry, flat, shape (starts or one, entries); None if there are none."""
        if self.shapes is not None:
            first, second = self.shapes.pseudo(batch)
            return first.flatten(1), second.flatten(1)
        return None if self.pseudo is None else (self.pseudo[0].reshape(1, -1), self.pseudo[1].reshape(1, -1))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density at constrained values, one for each start, summed over their entries."""
        assert self.fn is not None
        with Defined():
            log_prob = self.scale * self.fn.log_prob(value)
        return log_prob.reshape((len(value), -1)).sum(-1)


def read_priors(runs: Sequence[Mapping[str, Site]]) -> dict[str, Prior]:
    """Read the priors of a program from its runs at several parameter values."""
    return {name: _read([run[name] for run in runs]) for name, site in runs[0].items() if site.role == "prior"}


def _read(runs: Sequence[Site]) -> Prior:
    """Read one prior."""
    site, base = runs[0], unwrap(runs[0].fn).base
    kind, name = type(base).__name__, site.name
    if dropped(site):
        return Prior(name, _detached(site.fn).mask(False), kind, flat=True)  # type: ignore[attr-defined]  # noqa: FBT003
    unconstrained = isinstance(site.fn, Unconstrained)
    if not all(_same_scale(site, run) and _same_arguments(site.fn, run.fn) for run in runs[1:]):
        return Prior(name, None, kind, unconstrained=unconstrained)
    fn, scale = _detached(site.fn), site.scale.detach() if isinstance(site.scale, Tensor) else float(site.scale)
    if site.mask is not None:
        fn = fn.mask(site.mask)  # type: ignore[attr-defined]
    flat = isinstance(base, dist.Uniform) and not unconstrained  # a constant
    prior = Prior(name, fn, kind, scale, flat, unconstrained, spreads=_spreads(site, base, unconstrained))
    solvers, pseudo, volume = CONJUGATE.get(type(base), ((), None, (0, 0)))
    if pseudo is None or flat or not _whole(base):
        return prior
    first, second = (part + one * unconstrained for part, one in zip(pseudo(base), volume, strict=True))
    counted, events = exponent(site), max(0, second.dim() - first.dim())  # of a vector the second is a matrix
    parts = []
    for part, more in ((first, 0), (second, events)):
        part = part.detach().double().expand((*site.value.shape, *part.shape[part.dim() - more :]))
        parts.append(part * counted.reshape(counted.shape + (1,) * more))
    return replace(prior, solvers=solvers, pseudo=(parts[0], parts[1]))


def _spreads(site: Site, base: Distribution, unconstrained: bool) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:  # noqa: FBT001
    """Return what a prior adds to weight and scatter of a scale, by the solver and the function of its value."""
    found, shape, events = {}, site.value.shape, len(base.event_shape)
    counted = exponent(site).expand(shape)
    for (kind, chart), (solver, pseudo, volume) in SPREADS.items():
        if type(base) is kind and not (unconstrained and volume is None):
            n, scatter = (part.detach().double() for part in pseudo(base))
            if unconstrained and volume is not None:
                n = n + volume
            each = counted.flatten(len(shape) - events)[..., 0] if events else counted
            found[solver, chart] = each * n, counted * scatter
    return found


def _whole(base: Distribution) -> bool:
    """Whether a distribution is on all values of the parameters that it is conjugate to; `Uniform` may be on a part."""
    return not isinstance(base, dist.Uniform) or bool(((base.low == 0) & (base.high == 1)).all())


def _same_scale(a: Site, b: Site) -> bool:
    """Tell whether two runs of a site have the same exponent."""
    return torch.equal(torch.as_tensor(a.scale), torch.as_tensor(b.scale))


def dropped(site: Site) -> bool:
    """Tell whether masks leave the density of a site out everywhere."""
    return any(not bool(mask.tensor.any()) for mask in masks_of(site).values())


def exponent(site: Site) -> Tensor:
    """Return the exponent of a prior's density, zero where a mask leaves it out, to be broadcast to its value."""
    inner, counted = unwrap(site.fn), torch.as_tensor(site.scale).detach().double()
    counted = counted.reshape(counted.shape + (1,) * (site.fn.event_dim if counted.dim() else 0))  # type: ignore[attr-defined]
    for mask, events in ((site.mask, site.fn.event_dim), (inner.mask, inner.base.event_dim)):  # type: ignore[attr-defined]
        if mask is not None:
            counted = counted * mask.reshape(mask.shape + (1,) * events).double()
    return counted


def log_prior(priors: Mapping[str, Prior], batch: Batch) -> Tensor:
    """Sum of the log-densities of all priors with known arguments, shape `(starts)`."""
    parts = [p.log_prob(batch[p.name]).double() for p in priors.values() if p.fn is not None]
    return sum(parts[1:], parts[0]) if parts else torch.zeros(1, dtype=torch.float64)


def _same_arguments(a: Distribution, b: Distribution) -> bool:
    """Tell whether two distributions of one kind have equal tensors, through all that they wrap and are moved by."""
    mine, others = (sorted(arguments_of(fn), key=lambda argument: argument[0]) for fn in (a, b))
    same = [key for key, _ in mine] == [key for key, _ in others]
    return same and all(torch.equal(x, y) for (_, x), (_, y) in zip(mine, others, strict=True))


def _detached(fn: Distribution) -> Distribution:
    """Copy a distribution in float64, without gradients: it outlives the run that made it, and its graph must not.

    In single precision the values of a density would be too rough for its own slope.
    """
    fn = copy(fn)
    for key, value in vars(fn).items():
        if isinstance(value, Tensor) and value.is_floating_point():
            vars(fn)[key] = value.detach().double()
        elif isinstance(value, Distribution):
            vars(fn)[key] = _detached(value)
    return fn
