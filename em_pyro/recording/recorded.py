"""Log-factors of the sites that no family recognises, from a recorded graph.

A recording is believed only where it agrees with the model itself: at every probe in value, at the first in gradient,
and at the fitted values once more.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..program.devices import seeded
from ..program.handlers import quiet
from ..program.named import Params
from ..program.program import Program
from ..program.site import Site
from ..records.frozen import frozen
from .fold import fold
from .graph import Graph
from .moved import Moved, played, prior_of
from .record import Untraceable, record

SAME = {torch.float64: 1e-12, torch.float32: 1e-5}
SLOPES = {torch.float64: 1e-9, torch.float32: 1e-3}


@frozen
class Recording:
    """Factors of some sites as functions of the parameters, without the model."""

    graph: Graph
    names: Mapping[str, tuple[str, ...]]
    priors: frozenset[str]
    folded: Mapping[str, tuple[str, ...]]  # the first of several sites that are one function -> all of them

    def __call__(self, params: Params) -> Moved:
        """Evaluate at constrained values; differentiable."""
        found = self.graph(params)
        parts = {self.folded.get(n, (n,)): part.double() for n, part in found.items() if n not in self.priors}
        prior = sum((found[n] for n in found if n in self.priors), torch.zeros((), dtype=torch.float64))
        return Moved(parts, self.names, prior)

    def at(self, params: Params, free: Sequence[str]) -> Recording:
        """Return the part that some of `free` enter, the other parameters fixed where they are."""
        return replace(self, graph=self.graph.at(params, free))


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
            return tensors | {name: prior_of(found[name]) for name in priors}

    start = {n: v.to(program.parameters[n].initial.dtype) for n, v in points[-1].items()}
    weights = {n: p.tensor for n, p in program.parameters.items() if p.tensor is not None}
    graph, folding = folded(record(outputs, start, weights), sites, start)
    found = Recording(graph, names, frozenset(priors), folding)
    for values, run in zip(points, runs, strict=True):
        off = other_values(found, values, run, SAME)
        if off:
            raise Untraceable(f'site "{off[0]}" has other values elsewhere than its recording')
    off_slopes = _other_slopes(program, found, sites, priors, points[0])
    if off_slopes:
        raise Untraceable(f'the gradient of parameter "{off_slopes[0]}" is not that of its recording')
    return found


def folded(graph: Graph, names: Sequence[str], params: Params) -> tuple[Graph, dict[str, tuple[str, ...]]]:
    """Fold the outputs that are one function, if torch can map all their operations over a stack."""
    together, folding = fold(graph, names)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("error")  # torch warns where it would loop
            together(params)
    except (RuntimeError, ValueError, UserWarning):
        return graph, {}
    return together, folding


def other_values(
    recording: Recording, params: Params, run: Mapping[str, Site], tolerances: Mapping[torch.dtype, float]
) -> list[str]:
    """Return the sites at which a run of the model at `params` has other log-densities than the recording."""
    wrong = []
    with torch.no_grad():
        outputs = recording.graph(params)
        for first, mine in outputs.items():
            if first in recording.priors:
                wrong += [] if close(mine, prior_of(run[first]), tolerances) else [first]
                continue
            members = recording.folded.get(first, (first,))
            for name, part in zip(members, mine.unbind() if len(members) > 1 else (mine,), strict=True):
                truth = run[name].log_prob()
                if truth.names != recording.names[name] or not close(part, truth.tensor, tolerances):
                    wrong.append(name)
    return wrong


def close(mine: Tensor, truth: Tensor, tolerances: Mapping[torch.dtype, float]) -> bool:
    """Tell whether two tensors agree to rounding; equal infinities and nan agree."""
    if mine.shape != truth.shape:
        return False
    bound = tolerances.get(truth.dtype, tolerances[torch.float32]) * (1 + truth.abs())
    return bool(((mine == truth) | ((mine - truth).abs() <= bound) | (mine.isnan() & truth.isnan())).all())


def _other_slopes(
    program: Program, recording: Recording, sites: Sequence[str], priors: Sequence[str], params: Params
) -> list[str]:
    """Return the parameters whose gradient, of a random combination of all factors, the recording gets wrong."""

    def combination(moved: Moved) -> Tensor:
        generator, total = torch.Generator().manual_seed(2), moved.prior
        for name in sites:
            part = moved.factors[name].tensor
            v = seeded(torch.randn, part.shape, generator=generator, dtype=torch.float64).to(part.device)
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
    pairs = [(torch.where(b.isnan(), b.to(a), a), b) for a, b in pairs]  # torch's own may have none at a zero
    return [
        n for n, (a, b) in zip(names, pairs, strict=True) if not close(a / (1 + size), b.to(a) / (1 + size), SLOPES)
    ]
