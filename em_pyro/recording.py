"""Log-factors of the sites that no family recognises: from a recorded graph, or by running the model.

A recording is believed only where it agrees with the model itself: at every probe in value, at the first in gradient,
and at the fitted values once more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .graph import Graph
from .named import Named
from .program import Params, Program, Site, quiet
from .record import Untraceable, record

SAME = {torch.float64: 1e-12, torch.float32: 1e-5}
SLOPES = {torch.float64: 1e-9, torch.float32: 1e-3}


@dataclass(frozen=True)
class Moved:
    """What the model says of some of its sites at some values.

    Attributes:
        factors: log-density of each site, by name.
        prior: sum of the log-densities of priors whose arguments are parameters.
    """

    factors: Mapping[str, Named]
    prior: Tensor


@dataclass(frozen=True)
class Recording:
    """Factors of some sites as functions of the parameters, without the model."""

    graph: Graph
    names: Mapping[str, tuple[str, ...]]  # site -> the plates and latents of its dimensions
    priors: frozenset[str]

    def __call__(self, params: Params) -> Moved:
        """Evaluate at constrained values; differentiable."""
        found = self.graph(params)
        factors = {n: Named(part.double(), self.names[n]) for n, part in found.items() if n not in self.priors}
        prior = sum((found[n] for n in found if n in self.priors), torch.zeros((), dtype=torch.float64))
        return Moved(factors, prior)

    def at(self, params: Params, free: Sequence[str]) -> Recording:
        """The part that some of `free` enter, the other parameters fixed where they are."""
        return Recording(self.graph.at(params, free), self.names, self.priors)


def played(program: Program, sites: Sequence[str], priors: Sequence[str], params: Params) -> Moved:
    """Run the model for the factors of some sites; differentiable."""
    found = program.run(params)
    factors = {name: found[name].log_prob() for name in sites}
    prior = sum((_prior_of(found[name]) for name in priors), torch.zeros((), dtype=torch.float64))
    return Moved({n: Named(part.tensor.double(), part.names) for n, part in factors.items()}, prior)


def _prior_of(site: Site) -> Tensor:
    """Log-density of a prior whose arguments are parameters themselves."""
    return (site.log_prob().tensor.double() * torch.as_tensor(site.scale)).sum()


def recorded(
    program: Program,
    sites: Sequence[str],
    priors: Sequence[str],
    points: Sequence[Params],
    runs: Sequence[Mapping[str, Site]],
) -> Recording:
    """Record some sites of the model, and compare the recording with runs of the model at other points.

    Raises:
        Untraceable: the model cannot be recorded, or the recording is not the model.
    """
    names: dict[str, tuple[str, ...]] = {}

    def outputs(values: Params) -> dict[str, Tensor]:
        found = program.run(values)
        with quiet():  # validation would read numbers out of tensors
            factors = {name: found[name].log_prob() for name in sites}
            names.update({name: part.names for name, part in factors.items()})
            tensors = {name: part.tensor for name, part in factors.items()}
            return tensors | {name: _prior_of(found[name]) for name in priors}

    start = {n: v.to(program.parameters[n].initial.dtype) for n, v in points[-1].items()}
    weights = {n: p.tensor for n, p in program.parameters.items() if p.tensor is not None}
    try:
        graph = record(outputs, start, weights)
    except (NotImplementedError, TypeError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise Untraceable(f"recording it failed ({type(error).__name__}: {str(error).splitlines()[0]})") from error
    found = Recording(graph, names, frozenset(priors))
    for values, run in zip(points, runs, strict=True):
        off = other_values(found, values, run, SAME)
        if off:
            raise Untraceable(f'site "{off[0]}" has other values elsewhere than its recording')
    off_slopes = _other_slopes(program, found, sites, priors, points[0])
    if off_slopes:
        raise Untraceable(f'the gradient of parameter "{off_slopes[0]}" is not that of its recording')
    return found


def other_values(
    recording: Recording, params: Params, run: Mapping[str, Site], tolerances: Mapping[torch.dtype, float]
) -> list[str]:
    """Sites at which a run of the model at `params` has other log-densities than the recording."""
    wrong = []
    with torch.no_grad():
        for name, mine in recording.graph(params).items():
            if name in recording.priors:
                same = close(mine, _prior_of(run[name]), tolerances)
            else:
                truth = run[name].log_prob()
                same = truth.names == recording.names[name] and close(mine, truth.tensor, tolerances)
            if not same:
                wrong.append(name)
    return wrong


def close(mine: Tensor, truth: Tensor, tolerances: Mapping[torch.dtype, float]) -> bool:
    """Whether two tensors agree to rounding; equal infinities and nan agree."""
    if mine.shape != truth.shape:
        return False
    bound = tolerances.get(truth.dtype, tolerances[torch.float32]) * (1 + truth.abs())
    return bool(((mine == truth) | ((mine - truth).abs() <= bound) | (mine.isnan() & truth.isnan())).all())


def _other_slopes(
    program: Program, recording: Recording, sites: Sequence[str], priors: Sequence[str], params: Params
) -> list[str]:
    """Parameters whose gradient, of a random combination of all factors, the recording gets wrong."""

    def combination(moved: Moved) -> Tensor:
        generator, total = torch.Generator().manual_seed(2), moved.prior
        for name in sites:
            part = moved.factors[name].tensor
            v = torch.randn(part.shape, generator=generator, dtype=torch.float64).to(part.device)
            total = total + torch.where(part > -1e9, part, 0.0).mul(v).sum()
        return total

    leaves = {n: v.detach().clone().requires_grad_(v.is_floating_point()) for n, v in params.items()}
    weights = {n: p.tensor for n, p in program.parameters.items() if p.tensor is not None}
    names = [n for n, leaf in leaves.items() if leaf.requires_grad]
    with torch.enable_grad(), program.given(leaves):
        q = combination(played(program, sites, priors, leaves))
        targets = [weights.get(n, leaves[n]) for n in names]
        theirs = torch.autograd.grad(q, targets, allow_unused=True) if q.requires_grad else [None] * len(names)
        q = combination(recording(leaves))
        targets = [leaves[n] for n in names]
        mine = torch.autograd.grad(q, targets, allow_unused=True) if q.requires_grad else [None] * len(names)
    zeros = [torch.zeros_like(leaves[n]) for n in names]
    pairs = [(z if a is None else a, z if b is None else b) for a, b, z in zip(mine, theirs, zeros, strict=True)]
    size = max((float(b.abs().nan_to_num(0.0).max()) for _, b in pairs if b.numel()), default=0.0)
    return [
        n for n, (a, b) in zip(names, pairs, strict=True) if not close(a / (1 + size), b.to(a) / (1 + size), SLOPES)
    ]
