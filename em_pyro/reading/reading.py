"""What recognition finds of one site: where every argument comes from, or why it must be replayed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor
from torch.distributions import Distribution

from ..families import Family, family_for
from ..program.masks import seen
from ..program.named import Named, Params, unwrap
from ..program.site import Site
from ..records.frozen import frozen
from .bank import Bank, RoleMap
from .improper import Unbounded
from .latents.bilinear import Latents
from .priors import Prior


@frozen
class Centre:
    """What values are taken from: one point by event, and the largest distance of any value from it."""

    shift: Tensor = field(repr=False)
    reach: Tensor = field(repr=False)


@dataclass(frozen=True)
class Lookup:
    """What rows look up in an argument.

    Attributes:
        along: by parameter, the dimensions along which rows differ.
        numbers: which of several numbers of a row it goes by: arguments with the same one are looked up together.
    """

    along: Mapping[str, tuple[int, ...]]
    numbers: int


@frozen
class Agreed:
    """In which form all who hold rows of a site lay them out, so that statistics add.

    Attributes:
        groups: by argument, what rows look up; empty where they are not taken by group.
        lines: coefficients of all covariates, of which the rows at hand may show fewer; None where it is no regression.
        apart: whether statistics are kept row by row.
        exposed: whether a rate is multiplied by what is known of each row, which the rows at hand may have in common.
    """

    groups: Mapping[str, Lookup]
    lines: RoleMap | None = field(repr=False)
    apart: bool
    exposed: bool = False


@frozen
class Reading:
    """A site of a registered family, all of whose arguments are known or recognised."""

    site: Site
    family: Family
    event_rank: int  # events that are batch dimensions of the family
    seen: Named | None = field(repr=False)  # which entries count, with `event_rank` trailing dimensions; None is all
    roles: Mapping[str, RoleMap]
    known: Mapping[str, Tensor] = field(repr=False)  # as the distribution holds them, unbroadcast
    parameters: frozenset[str]
    centre: Centre | None = None  # on which all who hold rows have agreed; None is the mean of the rows at hand
    passing: bool = False  # whether its rows are read once
    form: Agreed | None = None  # in which all who hold rows lay them out; None is the one that suits those at hand

    def on(self, site: Site) -> Reading:
        """Return the same reading of the site in another run: of other rows, say."""
        known = {key: part for key, part in arguments(self.family, site).items() if key not in self.family.roles}
        part = seen(site)
        if part is not None and self.event_rank > unwrap(site.fn).event_rank:  # read as a row of Normals
            part = Named(part.tensor.unsqueeze(-1), part.names)
        return replace(self, site=site, seen=part, known=known)


@frozen
class Refusal:
    """A site that must be replayed: why, and the parameters that enter it."""

    why: str
    parameters: frozenset[str]


@frozen
class Recognition:
    """What the probes found."""

    bank: Bank
    readings: Mapping[str, Reading]
    refusals: Mapping[str, Refusal]
    reaches: Mapping[str, frozenset[str]]  # site -> parameters that enter it
    priors: Mapping[str, Prior]
    values: Params = field(repr=False)  # a random point
    runs: Sequence[Mapping[str, Site]] = field(repr=False)  # the program at every probe, that point first
    points: Sequence[Params] = field(default=(), repr=False)  # parameter values of every probe
    cut: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Parameters that change sites which no gradient of theirs reaches, and those sites."""
    outside: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # site -> shape of a tensor that is not fitted
    unbounded: Sequence[Unbounded] = ()  # arguments of priors that must not move
    latents: Latents | None = None  # continuous latents that are integrated, and the sites that they enter

    @cached_property
    def entered(self) -> frozenset[str]:
        """Sites that continuous latents enter: one by one they have no density."""
        return frozenset() if self.latents is None else frozenset(self.latents.sites)

    @cached_property
    def tabled(self) -> tuple[str, ...]:
        """Sites whose arguments are tables: of a known family, computed by the model itself."""
        return tuple(name for name in self.readings if name in self.refusals and name not in self.entered)

    def refused(self, sites: Collection[str], why: str) -> Recognition:
        """The same with some sites to be replayed."""
        refusals = {site: Refusal(why, self.readings[site].parameters) for site in sites}
        readings = {name: reading for name, reading in self.readings.items() if name not in sites}
        return replace(self, readings=readings, refusals={**self.refusals, **refusals})


class Unrecognised(Exception):
    """Says why an argument is no selection."""


def arguments(family: Family, site: Site) -> dict[str, Tensor]:
    """Read the arguments of a site as `family` does; a diagonal MultivariateNormal is read as a row of Normals."""
    base = unwrap(site.fn).base
    tril = family_for(type(base)).read(base)
    if "scale_tril" in family.roles or "scale_tril" not in tril:
        return family.read(base)
    return {"loc": tril["loc"], "scale": tril["scale_tril"].diagonal(dim1=-2, dim2=-1)}


def same(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors agree in shape and in every entry, NaN included."""
    if a is b or (a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()):
        return True
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def narrowest(family: Family, bases: Sequence[Distribution]) -> tuple[Family, list[dict[str, Tensor]]]:
    """Return the first of a family and its wider ones whose known arguments no parameter enters, and what it reads."""
    while True:
        args = [family.read(base) for base in bases]
        known = [key for key in args[0] if key not in family.roles]
        moving = [key for key in known if any(not same(other[key], args[0][key]) for other in args[1:])]
        if not moving:
            return family, args
        if family.wider is None:
            raise Unrecognised(f'"{moving[0]}" depends on a parameter')
        family = family.wider
