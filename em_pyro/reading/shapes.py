"""Conjugate priors whose arguments are selected from other parameters: pseudo-statistics that change with these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from types import SimpleNamespace

import pyro.distributions as dist
from torch import Tensor

from ..errors import ModelError
from ..program.named import Batch, align, unwrap
from ..program.site import Site
from ..program.volume import Unconstrained
from ..records.frozen import frozen
from .bank import RoleMap, Segment, entries_of, gather, packed
from .match import Atoms, match
from .priors import CONJUGATE, Prior, exponent
from .reading import Unrecognised

ARGUMENTS = {
    dist.Dirichlet: ("concentration",),
    dist.Beta: ("concentration1", "concentration0"),
    dist.Gamma: ("concentration", "rate"),
    dist.Exponential: ("rate",),
}
"""What is read of a distribution: all that its pseudo-statistics are computed from."""


@frozen
class Shapes:
    """Arguments of a prior as selections from parameters.

    Attributes:
        site: with the prior, as it was in one run.
        roles: where every argument comes from.
        segments: what they select from.
        counts: exponent of the density, zero where a mask leaves it out.
    """

    site: Site = field(repr=False)
    roles: Mapping[str, RoleMap] = field(repr=False)
    segments: tuple[Segment, ...] = field(repr=False)
    counts: Tensor = field(repr=False)

    def pseudo(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the two pseudo-statistics of every entry, (starts) + shape of the parameter."""
        base, shape = unwrap(self.site.fn).base, self.site.value.shape
        atoms = entries_of(self.segments, batch)
        args = {key: self._placed(role, gather(role, atoms, batch)) for key, role in self.roles.items()}
        _, pseudo, volume = CONJUGATE[type(base)]
        parts = zip(pseudo(SimpleNamespace(**args)), volume, strict=True)
        moved = isinstance(self.site.fn, Unconstrained)
        first, second = ((part + one * moved).expand((len(atoms), *shape)) * self.counts for part, one in parts)
        return first, second

    def _placed(self, role: RoleMap, bound: Tensor) -> Tensor:
        """Give an argument the dimensions of the value, starts first."""
        rank = self.site.fn.event_dim  # type: ignore[attr-defined]
        have = [self.site.dims.get(i, str(i)) for i in range(rank - self.site.value.dim(), 0)]
        bound = bound.unsqueeze(0) if role.known else bound
        return align(bound, role.names, have, bound.dim() - 1 - len(role.names))


def with_shapes(priors: Mapping[str, Prior], runs: Sequence[Mapping[str, Site]], atoms: Atoms) -> dict[str, Prior]:
    """Read the arguments of the conjugate priors that depend on parameters; others are as they were."""
    found = dict(priors)
    for name, prior in priors.items():
        sites = [run[name] for run in runs]
        kind = type(unwrap(sites[0].fn).base)
        if prior.fn is None and kind in ARGUMENTS and not prior.flat:
            try:
                found[name] = replace(prior, solvers=CONJUGATE[kind][0], shapes=_shapes(sites, atoms))
            except (Unrecognised, ModelError):
                continue
    return found


def _shapes(sites: Sequence[Site], atoms: Atoms) -> Shapes:
    """Match the arguments of one prior.

    Raises:
        Unrecognised: they are computed from parameters, not selected.
        ModelError: a dimension of theirs belongs to no plate.
    """
    bases, roles = [unwrap(site.fn).base for site in sites], dict[str, RoleMap]()
    for key in ARGUMENTS[type(bases[0])]:
        events = unwrap(sites[0].fn).event_rank + len(bases[0].event_shape)
        roles[key] = match(sites[0], key, [getattr(base, key) for base in bases], events, atoms, multiples=True)
    segments, where = packed(atoms.bank.entries, [role.entries for role in roles.values()])
    moved = {key: role if role.known else role.moved(where) for key, role in roles.items()}
    return Shapes(sites[0], moved, segments, exponent(sites[0]))
