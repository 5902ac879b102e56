"""Which entries of the latents anything observed depends on.

An entry of a latent on which nothing observed depends (a step past the end of a sequence, the unobserved half of an
`obs_mask` site on a labelled row) has its prior as posterior. Leaving it out of the statistics changes no fixed point
and makes EM faster: its share of the missing information is not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .named import Named, unwrap
from .program import Program, Site


def alive(program: Program, runs: Sequence[Mapping[str, Site]]) -> dict[str, Named]:
    """Entries of every latent that reach an observation, by plates; only latents with dead entries are listed.

    A factor does not depend on a latent at an entry if it is constant over its states there in every run. Only programs
    with masks are looked at: without one, an entry that reaches nothing is the program's own doing.
    """
    first = runs[0]
    if not program.latents or not any(_hides(s.mask) or _hides(unwrap(s.fn).mask) for s in first.values()):
        return {}
    with torch.no_grad():
        factors = [{n: s.log_prob() for n, s in run.items() if s.role != "prior"} for run in runs[:2]]
    found: dict[str, Named] = {}
    for name in reversed([n for n in first if n in program.latents]):
        latent = program.latents[name]
        reach: Tensor | None = None
        for other in factors[0]:
            if other == name or name not in factors[0][other].names:
                continue
            moves = _any(_varies([f[other] for f in factors], name), latent.plates)
            if other in found:
                moves = moves & _any(found[other], latent.plates)
            reach = moves if reach is None else reach | moves
        if reach is None:
            reach = torch.zeros((1,) * len(latent.plates), dtype=torch.bool)
        found[name] = _named(reach, latent.plates)
    return {
        name: Named(part.tensor.double(), part.names) for name, part in found.items() if not bool(part.tensor.all())
    }


def _hides(mask: Tensor | None) -> bool:
    """Whether a mask leaves anything out."""
    return mask is not None and not bool(mask.all())


def _varies(factors: Sequence[Named], latent: str) -> Named:
    """Entries at which any of the factors differs between states of the latent."""
    names = factors[0].names
    axis = names.index(latent)
    moves = torch.zeros((), dtype=torch.bool)
    for factor in factors:
        moves = moves | (factor.tensor.amax(axis) != factor.tensor.amin(axis))
    return Named(moves, names[:axis] + names[axis + 1 :])


def _any(part: Named, plates: tuple[str, ...]) -> Tensor:
    """Reduce to the plates of a latent: does it move anywhere?"""
    tensor = part.tensor
    drop = [i for i, name in enumerate(part.names) if name not in plates]
    if drop:
        tensor = tensor.flatten().any() if len(drop) == tensor.dim() else _any_over(tensor, drop)
    kept = tuple(name for name in part.names if name in plates)
    return Named(tensor, kept).align(plates)


def _any_over(tensor: Tensor, axes: list[int]) -> Tensor:
    for axis in sorted(axes, reverse=True):
        tensor = tensor.any(axis)
    return tensor


def _named(tensor: Tensor, plates: tuple[str, ...]) -> Named:
    keep = [i for i in range(tensor.dim()) if tensor.shape[i] > 1]
    drop = tuple(i for i in range(tensor.dim()) if i not in keep)
    return Named(tensor.squeeze(drop) if drop else tensor, tuple(plates[i] for i in keep))
