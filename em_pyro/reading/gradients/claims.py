"""Whether the arguments of a site have the gradient that their maps claim: equal values at all probes may not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.distributions import transform_to

from ...program.devices import seeded
from ...program.named import Batch, Named, batched, squeeze
from ...program.program import Program
from ...program.site import Site
from ..bank import Bank, bound_once, entries_of, list_of
from ..reading import Reading, arguments

Pair = tuple[Tensor, Tensor]
"""An argument as the model computed it, and as its map claims, of one shape."""


def disagreeing(
    program: Program,
    leaves: Mapping[str, Tensor],
    traced: Mapping[str, Site],
    readings: Mapping[str, Reading],
    bank: Bank,
) -> dict[str, frozenset[str]]:
    """Return the sites whose arguments have not the gradient that their maps claim, and for which parameters.

    An entry may have a parameter's value at every probe and yet not depend on it (it is detached), or depend on another
    that is always equal. A random combination of all arguments at once tells; only where it differs are the sites
    looked at one by one, which takes a backward pass for each.

    Args:
        program: what was run.
        leaves: the unconstrained values from which `traced` was computed.
        traced: the program's sites, with their gradients.
        readings: of those sites.
        bank: what the maps of the readings select from.
    """
    if not leaves or not readings:
        return {}
    batch = batched({n: transform_to(program.parameters[n].constraint)(leaf) for n, leaf in leaves.items()})
    if bank.computed is not None:
        batch = {**batch, **bank.computed(batch)}
    pairs = _claims(traced, readings, bank, batch)
    generator = torch.Generator().manual_seed(1)
    every = [pair for of_site in pairs.values() for pair in of_site]
    if not _apart(every, leaves, generator):
        return {}
    apart = {n: _apart(own, leaves, generator) | _apart(own, leaves, generator) for n, own in pairs.items()}
    return {name: parameters for name, parameters in apart.items() if parameters}


def _claims(
    traced: Mapping[str, Site], readings: Mapping[str, Reading], bank: Bank, batch: Batch
) -> dict[str, list[Pair]]:
    """Pair every argument that a parameter enters, or is said to enter, with what its map claims, by site."""
    pairs: dict[str, list[Pair]] = {}
    atoms = {"entries": bank.values(batch), "probabilities": entries_of(bank.probabilities, batch)}
    if bank.matrices:
        atoms["matrices"] = bank.stack(batch)
    claims: dict[object, Tensor] = {}
    for name, reading in readings.items():
        args = arguments(reading.family, traced[name])
        for key, role in reading.roles.items():
            kind = list_of(reading.family.roles[key].domain)
            event = reading.event_rank + reading.family.roles[key].event_dim
            truth = squeeze(args[key], traced[name].dims, name, event)
            if role.known and not truth.tensor.requires_grad:
                continue
            # the steps of a loop make one claim, so that it is evaluated once
            where = tuple(truth.names.index(n) for n in role.names)
            same = (id(role.index), id(role.coefficient), id(role.constant), id(role.affine), kind, where)
            if same not in claims or claims[same].shape != truth.tensor.shape:
                claim = bound_once(role, atoms.get(kind, torch.zeros(0)), batch)
                claims[same] = Named(claim, role.names).align(truth.names).expand(truth.tensor.shape)
            pairs.setdefault(name, []).append((truth.tensor, claims[same]))
    return pairs


def _apart(pairs: Sequence[Pair], leaves: Mapping[str, Tensor], generator: torch.Generator) -> frozenset[str]:
    """Return the parameters in which one random combination of all arguments has another gradient than that of claims.

    Every argument counts in units of its size. A parameter that no claim has, or that a row of one entry divides out,
    may have the gradient of rounding.
    """
    difference, size = torch.zeros(()), torch.zeros(())
    alike: dict[object, tuple[Tensor, list[Tensor]]] = {}
    for truth, claim in pairs:  # those with one claim in one operation
        alike.setdefault((id(claim), truth.dtype), (claim, []))[1].append(truth)
    for claim, truths in alike.values():
        truth = torch.stack(truths)
        v = seeded(torch.randn, truth.shape, generator=generator, dtype=torch.float64).to(truth)
        v = v / _size(truth)
        difference = difference + (v * (truth - claim)).sum()
        size = size + (v * claim).sum()
    if not difference.requires_grad:
        return frozenset()
    targets = list(leaves.values())
    single = torch.float32 in {leaf.dtype for leaf in targets}
    share, rounding = (1e-3, 1e-5) if single else (1e-8, 1e-12)
    off = torch.autograd.grad(difference, targets, retain_graph=True, allow_unused=True)
    over = {name: _largest(a) - rounding / _size(leaf) for (name, leaf), a in zip(leaves.items(), off, strict=True)}
    if not any(not more <= 0 for more in over.values()):
        return frozenset()  # whatever is claimed
    claimed: Sequence[Tensor | None] = [None] * len(targets)
    if size.requires_grad:
        claimed = torch.autograd.grad(size, targets, retain_graph=True, allow_unused=True)
    return frozenset(n for (n, more), b in zip(over.items(), claimed, strict=True) if not more <= share * _largest(b))


def _size(tensor: Tensor) -> float:
    """Return the largest absolute value that is finite; one if that is zero."""
    found = tensor.detach().abs().nan_to_num(0.0, posinf=0.0)
    return (float(found.max()) if found.numel() else 0.0) or 1.0


def _largest(gradient: Tensor | None) -> float:
    """Return the largest absolute entry; zero of none."""
    return float(gradient.abs().max()) if gradient is not None and gradient.numel() else 0.0
