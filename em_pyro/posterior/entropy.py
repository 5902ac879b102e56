"""The entropy of the posterior: how uncertain the states are, once the data are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor
from torch.special import xlogy

from ..program.named import Named, align
from ..program.program import Program
from ..program.site import Site
from .inside import Inside
from .joint import Joint

Law = Callable[[Sequence[str]], Tensor]
"""Posterior of some latents together: their plates, then the states of each."""


def entropy(joint: Joint, inside: Inside, sites: Mapping[str, Site], law: Law) -> float:
    """Return `-sum_z p(z | x) log p(z | x)` over all discrete latents together, in nats.

    Entries that a mask cuts off from all that is observed (labelled rows, steps past the end of a sequence) are latents
    in name only, and left out. They have the law `p(z | parents)`, so that the chain rule tells their share of the sum.

    Args:
        joint: latents that the contraction sums out.
        inside: latents that units sum out.
        sites: of a run at the parameters.
        law: posterior of latents together.
    """
    program, alive = joint.engine.program, joint.engine.alive
    total = joint.entropy(inside.entropies())
    return total - sum(_dead(program, sites[name], living, law) for name, living in alive.items())


def _dead(program: Program, site: Site, living: Named, law: Law) -> float:
    """Return what the entries of a latent add that reach nothing observed: `E H(p(z | parents))`, row by row."""
    plates, density = program.latents[site.name].plates, site.log_prob()
    parents = [name for name in density.names if name in program.latents and name != site.name]
    logs = align(density.tensor, density.names, (*plates, *parents, site.name)).double()
    each = -xlogy(logs.exp(), logs.exp()).sum(-1)
    if parents:
        outer = max((program.latents[name].plates for name in parents), key=len)
        weights = align(law(parents), (*outer, *parents), (*plates, *parents))
        each = (each * weights).sum(tuple(range(-len(parents), 0)))
    each = each * (1 - living.align(plates)) * site.row_weights.align(plates)
    return float(each.expand([program.plates[plate] for plate in plates]).sum())
