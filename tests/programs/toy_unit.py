"""A unit of one's own, as a stranger would write it, and the programs that it is tried on.

`Nested` sums out a latent of the program inside, gives one factor over another, and names its statistics by class.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro.e_step.chunks import WHOLE, Chunk
from em_pyro.e_step.contraction.schedule import Factor
from em_pyro.e_step.left import Left
from em_pyro.e_step.sites.site_factor import SiteFactor
from em_pyro.e_step.sums import Sums
from em_pyro.e_step.units import Unit
from em_pyro.program.named import Named, align
from em_pyro.reading.bank import RoleMap
from em_pyro.reading.bound import Bound

Taker = Callable[[Left], tuple[Sequence[Unit], Left]]
"""A row of the table of takers."""

X = tensor([-2.2, 0.3, 2.9, 3.4, 0.9, -1.0], dtype=torch.float64)
Y = tensor([1.0, 0.0, 4.0, 6.0, 9.0, 2.0], dtype=torch.float64)


def nested(x: Tensor, y: Tensor) -> None:
    """Classes `z`, within each of which rows have one of two moods `h`."""
    weights = pyro.param("weights", tensor([0.2, 0.3, 0.5]), constraint=constraints.simplex)
    mix = pyro.param("mix", tensor([[0.8, 0.2], [0.4, 0.6], [0.3, 0.7]]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-1.1, 2.3]))
    scale = pyro.param("scale", tensor([0.9, 1.4]), constraint=constraints.positive)
    rate = pyro.param("rate", tensor([1.2, 3.1, 5.7]), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        h = pyro.sample("h", dist.Categorical(mix[z]))
        pyro.sample("x", dist.Normal(loc[h], scale[h]), obs=x)
        pyro.sample("y", dist.Poisson(rate[z]), obs=y)


def pair(x: Tensor, y: Tensor) -> None:
    """Classes `z` of rows with two observations each."""
    weights = pyro.param("weights", tensor([0.2, 0.3, 0.5]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-1.1, 0.4, 2.3]))
    rate = pyro.param("rate", tensor([1.2, 3.1, 5.7]), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)
        pyro.sample("y", dist.Poisson(rate[z]), obs=y)


# ---- a unit that sums out a latent of its own ------------------------------------------------------------------------


def of_class(factor: SiteFactor, k: int) -> SiteFactor:
    """One cell of a site, as a site of its own."""

    def cut(part: Tensor | None) -> Tensor | None:
        return None if part is None else part[k]

    roles = {
        key: RoleMap((), role.index[k], cut(role.coefficient), cut(role.constant)) for key, role in factor.roles.items()
    }
    return replace(factor, name=f"{factor.name} of {k}", roles=roles, cells=(), cell_shape=())


@dataclass(frozen=True)
class Bindings:
    """Natural parameters of the three sites, starts first, and where the statistics of `x` stand."""

    h: Tensor  # (starts, z, h)
    x: tuple[Tensor, ...] = field(repr=False)  # (starts, h) each
    y: tuple[Tensor, ...] = field(repr=False)  # (starts, z) each
    about: Tensor = field(repr=False)  # (starts, h)


@dataclass(frozen=True)
class Nested(Unit):
    """The moods of a row and all that is observed of it, as one factor over its class.

    Attributes:
        h: the law of the mood in every class.
        x: what is observed of the mood.
        y: what is observed of the class.
        fault: planted: "density", "sums", "law" or none.
    """

    h: SiteFactor
    x: SiteFactor
    y: SiteFactor
    fault: str = ""

    @property
    def members(self) -> tuple[str, ...]:
        """One factor, where the latent stood."""
        return (self.h.name,)

    @property
    def every(self) -> tuple[SiteFactor, ...]:
        """The sites as the model has them."""
        return (self.h, self.x, self.y)

    @property
    def classes(self) -> dict[str, list[SiteFactor]]:
        """For each site, one for every class or mood: statistics are named by them."""
        return {f.name: [of_class(f, k) for k in range(f.cell_shape[0])] for f in self.every}

    @property
    def factors(self) -> tuple[SiteFactor, ...]:
        """What has statistics."""
        return tuple(factor for group in self.classes.values() for factor in group)

    @property
    def stands_for(self) -> Mapping[str, tuple[str, ...]]:
        """The site that a class is of."""
        return {factor.name: (site,) for site, group in self.classes.items() for factor in group}

    @property
    def inside(self) -> tuple[str, ...]:
        """The mood is summed out here."""
        return (self.h.name,)

    def natural(self, bound: Bound, about: Bound | None = None, replays: Mapping[str, Named] | None = None) -> Bindings:
        """Bind all three, of values as they are."""
        h, x, y = (f.family.natural(f.arguments(bound, torch.zeros(()))) for f in self.every)
        return Bindings(h[0], x, y, self.x.locations(about or bound))

    def log_factors(self, natural: Bindings, chunk: Chunk = WHOLE) -> tuple[list[Tensor], Tensor]:
        """The moods summed out, (starts, z, rows); what is remembered is their law (starts, z, h, rows)."""
        x, y = (self._density(f, eta, chunk) for f, eta in ((self.x, natural.x), (self.y, natural.y)))
        joint = natural.h.unsqueeze(-1) + x.unsqueeze(1)
        total = joint.logsumexp(2) if self.fault != "density" else joint.amax(2)
        law = joint.softmax(2)
        return [total + y], law.flip(2) if self.fault == "law" else law

    def sums(
        self, shares: Sequence[Tensor | None], natural: Bindings | None, memo: Tensor, chunk: Chunk = WHOLE
    ) -> dict[str, Tensor]:
        """Statistics by class and by mood."""
        (share,) = shares
        assert share is not None
        both = share.unsqueeze(2) * memo
        about = None if natural is None else natural.about
        classes = share if self.fault != "sums" else share.square()
        return self._sums(both.sum(-1), both.sum(1), classes, about, chunk)

    def given(self, shares: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Statistics under shares that were drawn, which every site has."""
        both = align(shares["h"], self.h.names, ("z", "h"))
        return self._sums(both, shares["x"], shares["y"], None, WHOLE)

    def made_of(self, member: str) -> tuple[SiteFactor, ...]:
        """All sites."""
        return self.every

    def finish(self, found: Mapping[str, Tensor], natural: Bindings | None) -> dict[str, Sums]:
        """Cut what stands side by side, by class."""
        sums = {}
        for site, group in self.classes.items():
            for k, factor in enumerate(group):
                total, around = found[factor.name], None
                parts = (total,) if site == "h" else total.unbind(-1)
                if site == "x":
                    around = self._centre(None if natural is None else natural.about, len(total))[:, k]
                sums[factor.name] = Sums(factor.name, factor.family, parts, around)
        return sums

    def digits(self, bound: Bound, near: Bound) -> Tensor | None:
        """They never run short: data are near zero."""
        return None

    def width(self, plate: str) -> int:
        """The law of a row."""
        return self.h.cell_shape[0] * self.x.cell_shape[0]

    def laws(self, natural: Bindings) -> dict[str, Tensor]:
        """The mood given the class, (z, rows, h)."""
        _, law = self.log_factors(natural)
        return {"h": law.squeeze(0).movedim(1, -1)}

    def mode(self, natural: Bindings) -> tuple[Tensor, dict[str, Tensor]]:
        """The best mood of every class and row."""
        x, y = self._density(self.x, natural.x, WHOLE), self._density(self.y, natural.y, WHOLE)
        best = (natural.h.unsqueeze(-1) + x.unsqueeze(1)).squeeze(0).max(1)
        for base in (self.x.data.base(), self.y.data.base()):
            assert base is not None
            y = y + base.align(("rows",))
        return best.values + y.squeeze(0), {"h": best.indices}

    def draws(self, natural: Bindings, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Moods of every class and row, `n` times."""
        law = self.laws(natural)["h"]
        drawn = torch.multinomial(law.flatten(0, -2), n, replacement=True, generator=generator)
        return {"h": drawn.T.reshape(n, *law.shape[:-1])}

    def _density(self, factor: SiteFactor, eta: Sequence[Tensor], chunk: Chunk) -> Tensor:
        """Log-density of every cell and row, (starts, cells, rows)."""
        statistics = factor.family.statistics(chunk.cut(factor.data.value), {})
        first, *rest = (part.unsqueeze(-1) * of_rows for part, of_rows in zip(eta, statistics, strict=True))
        return sum(rest, first)

    def _centre(self, about: Tensor | None, starts: int) -> Tensor:
        if about is not None:
            return about
        assert self.x.data.shift is not None
        return self.x.data.shift.expand(starts, self.x.cell_shape[0])

    def _sums(
        self, both: Tensor, moods: Tensor, classes: Tensor, about: Tensor | None, chunk: Chunk
    ) -> dict[str, Tensor]:
        """Statistics under the weights of (z, h), (h, rows) and (z, rows)."""
        centre, found = self._centre(about, len(both)), {}
        x, y = (chunk.cut(f.data.value) for f in (self.x, self.y))
        for k, factor in enumerate(self.classes["h"]):
            found[factor.name] = both[:, k]
        for k, factor in enumerate(self.classes["x"]):
            every = self.x.family.statistics(x - centre[:, k, None], {})
            found[factor.name] = torch.stack([(moods[:, k] * part).sum(-1) for part in every], -1)
        for k, factor in enumerate(self.classes["y"]):
            every = self.y.family.statistics(y, {})
            found[factor.name] = torch.stack([(classes[:, k] * part).sum(-1) for part in every], -1)
        return found


def taking_nested(fault: str = "") -> Taker:
    """A row of the table of takers."""

    def take(left: Left) -> tuple[Sequence[Unit], Left]:
        sites = {factor.name: factor for stack in left.stacks for factor in stack.every}
        if "h" not in sites:
            return (), left
        unit = Nested(sites["h"], sites["x"], sites["y"], fault)
        plates = left.factors["h"].plates
        return (unit,), left.taking(("h", "x", "y"), Factor("h", ("z", "rows"), plates))

    return take
