"""All sites that the Gaussian latents enter, as one unit: one factor over the discrete latents that reach them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property
from math import prod
from typing import cast

import torch
from torch import Tensor

from ...program.named import Named
from ...reading.bank import gather
from ...reading.bound import Bound
from ...reading.latents.bilinear import Places
from ...records.frozen import frozen
from ..chunks import WHOLE, Chunk
from ..sites.site_factor import SiteFactor
from ..sums import Sums
from ..units import Unit
from .alike.components import Members, place_of
from .forms import Expected
from .group import Bindings, Group, Posterior, posterior, undetermined_entries
from .laws import Laws
from .moments import Products, cut, products, weights_of
from .rows import Rows
from .translate import Centre, Translation


@frozen
class Natural:
    """Arguments at one set of parameters.

    Attributes:
        bindings: coefficients and whitening roots of every site.
        around: coefficients around which statistics are wanted, of every site.
    """

    bindings: Bindings
    around: Sequence[Tensor]
    starts: int


@frozen
class Gaussian(Unit):
    """Gaussian latents, summed out.

    Attributes:
        name: of its factor.
        sites: a site factor for each site, whose cells are classes of rows.
        alike: for each of them, by name, all sites that are the same function.
        rows: of the same sites.
        components: what components there are.
        groups: the same, laid out.
        whole: lays them out with every one of their members.
        places: of the entries of all latents.
        states: discrete latents over which a component is summed, and how many states each has.
        plates: of the factor, and how many rows each has.
        order: dimensions of the factor, where states come first and then plates, in their order.
        translations: of latents, that are ones of parameters.
        centres: means around which latents are.
    """

    name: str
    sites: tuple[SiteFactor, ...]
    alike: Mapping[str, tuple[str, ...]]
    rows: tuple[Rows, ...] = field(repr=False)
    components: tuple[Members, ...] = field(repr=False)
    groups: tuple[Group, ...] = field(repr=False)
    whole: Callable[[], Sequence[Group]] = field(repr=False)
    places: Places = field(repr=False)
    states: Mapping[str, int]
    plates: Mapping[str, int]
    order: tuple[int, ...]
    translations: tuple[Translation, ...] = field(default=(), repr=False)
    centres: tuple[Centre, ...] = field(default=(), repr=False)

    @property
    def members(self) -> tuple[str, ...]:
        """One factor."""
        return (self.name,)

    @property
    def factors(self) -> tuple[SiteFactor, ...]:
        """Of all sites."""
        return self.sites

    @property
    def continuous(self) -> tuple[str, ...]:
        """All latents that are integrated."""
        return tuple(self.places.shapes)

    @property
    def held(self) -> int:
        """Numbers that the laws of all latents take, at one start."""
        return prod(self.states.values()) * sum(group.held for group in self.groups)

    def structure(self, latent: str) -> str:
        """Say how a latent hangs together with others."""
        first = self.places.first[latent]
        last = first + prod(self.places.shapes[latent])
        every = zip(self.components, self.groups, strict=True)
        mine = [(m.entries, g) for m, g in every if bool(((m.entries >= first) & (m.entries < last)).any())]
        sets, sizes = sum(len(entries) for entries, _ in mine), sorted({entries.shape[1] for entries, _ in mine})
        size = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        each = f"{sets:,} sets of {size} that hang together" if sets > 1 else f"{size} that hang together"
        patterns = sum(len(group.counts) for _, group in mine)
        each += f", of {patterns:,} kinds" if patterns > 1 else ""
        return each + next(iter(sorted({g.chain for _, g in mine if g.width})), "")

    @property
    def stands_for(self) -> Mapping[str, tuple[str, ...]]:
        """For each of them, by name, all sites that are the same function."""
        return self.alike

    def expanded(self, sums: Mapping[str, Sums], bound: Bound) -> tuple[dict[str, Sums], dict[str, Tensor]]:
        """Give latents a mean of their own; say how far parameters move for it, (s, entries) by name."""
        new, moved = dict(sums), dict[str, Tensor]()
        if self.centres:
            roots = {factor.name: _roots(factor, bound) for factor in self.sites}
            for one in self.centres:
                more, added = one.of(new, roots)
                new |= more
                for name in dict.fromkeys(name for name, _ in one.entries):
                    moved[name] = added[:, [k for k, (other, _) in enumerate(one.entries) if other == name]]
        for translation in self.translations:
            some = new[translation.site]
            n, first = some.parts[:2]
            mean = (first / n if first.dim() == n.dim() else first / n.unsqueeze(-1)).squeeze(1)
            assert some.around is not None
            mean = mean.reshape((len(mean), -1))
            centre = some.around + mean.reshape((len(mean), *some.around.shape[1:]))
            new[translation.site] = replace(some.about(centre), around=some.around.expand_as(centre))
            for name, by in translation.moves.items():
                moved[name] = moved.get(name, 0.0) + mean @ by
        return new, moved

    def natural(self, bound: Bound, about: Bound | None = None, replays: Mapping[str, Named] | None = None) -> Natural:
        """Bind coefficients and scales."""
        bindings = [(_coefficients(f, bound), _roots(f, bound)) for f in self.sites]
        around = [c for c, _ in bindings] if about is None else [_coefficients(f, about) for f in self.sites]
        return Natural(bindings, around, bound.starts)

    def log_factors(self, natural: Natural, chunk: Chunk = WHOLE) -> tuple[list[Tensor], list[Posterior]]:
        """Log evidence of the components, added up in the rows of the factor."""
        found = [posterior(group, natural.bindings) for group in self.groups]
        states, rows = prod(self.states.values()), prod(self.plates.values())
        total = torch.zeros((natural.starts, states, rows), dtype=torch.float64)
        for group, one in zip(self.groups, found, strict=True):
            total = total + group.into_rows(one.evidence, rows)
        return [self.laid_out(total)], found

    def laid_out(self, part: Tensor) -> Tensor:
        """What lies by joint states and rows, (...) + (states, rows), in the dimensions of the factor."""
        sizes, before = (*self.states.values(), *self.plates.values()), part.dim() - 2
        part = part.expand((*part.shape[:before], prod(self.states.values()), prod(self.plates.values())))
        part = part.reshape((*part.shape[:before], *sizes))
        return part.permute((*range(before), *(before + d for d in self.order)))

    def sums(
        self, shares: Sequence[Tensor | None], natural: Natural, memo: Sequence[Posterior], chunk: Chunk = WHOLE
    ) -> dict[str, Tensor]:
        """Products of every cell, side by side, of sites that a parameter enters or may move."""
        share = self.by_state(shares[0])
        total: dict[int, Tensor] = {}
        for group, found in zip(self.groups, memo, strict=True):
            weights = weights_of(group, share)
            for k, block in enumerate(group.blocks):
                if block.known and block.site not in self._moving:
                    continue
                made = products(group, found, k, weights, len(self.rows[block.site].index))
                total[block.site] = total[block.site] + made if block.site in total else made
        return {self.sites[s].name: part.expand((natural.starts, *part.shape[1:])) for s, part in total.items()}

    @cached_property
    def _moving(self) -> frozenset[int]:
        """Sites whose statistics are wanted though no parameter enters: their latents may be given a mean."""
        names = {translation.site for translation in self.translations}
        return frozenset(s for s, factor in enumerate(self.sites) if factor.name in names)

    def by_state(self, share: Tensor | None) -> Tensor | None:
        """Weights of the factor, (s, states, rows)."""
        if share is None or (not self.states and bool((share == 1).all())):
            return None
        back = sorted(range(len(self.order)), key=lambda d: self.order[d])
        return share.permute(0, *(1 + d for d in back)).reshape((len(share), prod(self.states.values()), -1))

    def given(self, shares: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without parameters there are none: the law of the latents is part of the posterior."""
        return {}

    def given_at(self, shares: Mapping[str, Tensor], bound: Bound) -> dict[str, Sums]:
        """Statistics under given shares of the discrete latents, those of the continuous ones by their law."""
        natural = self.natural(bound)
        _, memo = self.log_factors(natural)
        return self.finish(self.sums([shares[self.name]], natural, memo), natural)

    def made_of(self, member: str) -> tuple[SiteFactor, ...]:
        """All sites."""
        return self.sites

    def finish(self, found: Mapping[str, Tensor], natural: Natural | None) -> dict[str, Sums]:
        """Cut into the statistics of the families."""
        if natural is None:
            return {}
        sums = {}
        for k, (factor, rows) in enumerate(zip(self.sites, self.rows, strict=True)):
            if factor.name in found:
                parts = cut(found[factor.name], rows.count, rows.layout.sizes[2] if rows.joint else 0)
                sums[factor.name] = _sums(factor, parts, natural.bindings[k][0], natural.around[k])
        return sums

    def latent_laws(self, natural: Natural) -> Laws:
        """The posterior of all latents, at the parameters of one start."""
        groups = self.whole()
        found = [posterior(group, natural.bindings) for group in groups]
        return Laws(groups, found, self.places.count, prod(self.states.values()), prod(self.plates.values()))

    def undetermined(self, bound: Bound) -> list[str]:
        """Names of the latents that neither a prior nor what is observed determines."""
        bindings = self.natural(bound).bindings
        entries = torch.cat([undetermined_entries(group, bindings).reshape(-1) for group in self.groups]).unique()
        places = self.places
        ends = {n: (places.first[n], places.first[n] + prod(shape)) for n, shape in places.shapes.items()}
        return [n for n, (a, b) in ends.items() if bool(((entries >= a) & (entries < b)).any())]

    def evidence_by(self, plate: str, size: int, natural: Natural) -> Tensor | None:
        """Log evidence of the components in every row of a plate, where no discrete latent reaches them.

        As much of it as the factor has; None if a component does not lie in one row.
        """
        total = torch.zeros(size, dtype=torch.float64)
        for members, group in zip(self.components, self.whole(), strict=True):
            place = place_of(self.rows, members, plate, size)
            if place is None:
                return None
            each = posterior(group, natural.bindings).evidence[0, 0].expand(len(place))
            total.index_add_(0, place, each if group.repeats is None else each * group.repeats)
        return total

    def state(self, chosen: Mapping[str, Tensor], plates: Mapping[str, Sequence[str]]) -> Tensor:
        """The joint state of every row of the factor, (draws, rows), where discrete latents are chosen.

        Args:
            chosen: index of the state of every latent, draws + its plates.
            plates: of every latent.
        """
        total: Tensor | None = None
        for name, size in self.states.items():
            own = list(plates[name])
            index = chosen[name].permute((0, *(1 + own.index(p) for p in self.plates if p in own)))
            index = index.reshape((len(index), *(n if p in own else 1 for p, n in self.plates.items())))
            index = index.expand((len(index), *self.plates.values())).reshape((len(index), -1))
            total = index if total is None else total * size + index
        return torch.zeros((1, 1), dtype=torch.long) if total is None else total

    def digits(self, bound: Bound, near: Bound) -> Tensor | None:
        """Residuals are taken at the coefficients: they do not run short."""
        return None

    def width(self, plate: str) -> int:
        """Rows are not taken in chunks."""
        return 0

    def stuck(self, plate: str) -> str:
        """They hang together through the latents."""
        return f'Gaussian latents are summed out by component (site "{self.name}")' if plate in self.plates else ""


def _form(factor: SiteFactor) -> Expected:
    return cast(Expected, factor.form)


def _coefficients(factor: SiteFactor, bound: Bound) -> Tensor:
    """Coefficients of every cell, (s, cells, J), or (s, cells, e, J)."""
    return _form(factor).coefficients(factor, bound)


def _roots(factor: SiteFactor, bound: Bound) -> Tensor:
    """What whitens residuals in every cell: one over the scale, or the inverse of the factor."""
    joint = "scale_tril" in factor.roles
    role = factor.roles["scale_tril" if joint else "scale"]
    scale = gather(role, bound.matrices if joint else bound.entries, bound.batch).double()
    scale = scale if not role.known else scale.unsqueeze(0)
    if not joint:
        return scale.reciprocal().expand((scale.shape[0], *factor.cell_shape))
    unit = torch.eye(scale.shape[-1], dtype=scale.dtype)
    return torch.linalg.solve_triangular(scale, unit, upper=False)


def _sums(factor: SiteFactor, parts: Products, at: Tensor, around: Tensor) -> Sums:
    """Statistics of the family of a site, around the coefficients that are wanted."""
    form = _form(factor)
    found = form.sums(factor, parts, at)
    return found if around is at else found.about(form.centre(factor, around))
