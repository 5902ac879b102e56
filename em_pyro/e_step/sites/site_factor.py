"""One recognised site as linear algebra: all components' log-densities by one matrix product, statistics by another.

The value's sufficient statistics form a matrix of features, one column a row of data (`site_data.py`); the bound
arguments form a matrix `eta` of natural parameters, one row a cell (a component, a state, an item). The factor is
`eta @ features + base`, and the expected statistics of every cell are `weights @ features'`. How the two products are
computed is a row of the table in `forms.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from ...families import Family
from ...families.charts import safe_log
from ...program.named import Params, align, ordered
from ...reading.bank import RoleMap, gather
from ...reading.bound import LOWEST, Bound, finite, once
from ...records.frozen import frozen
from ..chunks import WHOLE, Chunk
from ..second.common import Common
from ..second.expansion import share
from ..sums import Sums
from .dimensions import Layout
from .natural import Natural, with_excess
from .site_data import SiteData


class Form(Protocol):
    """How the two products of a site are computed."""

    @property
    def together(self) -> bool:
        """Whether several sites may share one product."""

    def natural(self, factor: SiteFactor, bound: Bound, about: Bound | None) -> Natural:
        """Bind the arguments; statistics are wanted around the locations `about`."""

    def digits(self, factor: SiteFactor, bound: Bound, near: Bound) -> Tensor | None:
        """By how much statistics taken at `bound` are short of digits `near`; as for `centring.digits`."""

    @property
    def alike(self) -> bool:
        """Whether statistics of sites with the same cells are alike, whatever their data."""

    @property
    def in_product(self) -> bool:
        """Whether it is a product of natural parameters and features, which a mixture may take into its own."""

    def events(self, factor: SiteFactor) -> tuple[tuple[int, ...], ...]:
        """What a cell holds of every statistic."""

    def lines(self, factor: SiteFactor) -> RoleMap | None:
        """Coefficients of covariates; None where there are none."""

    def natural_of(self, factor: SiteFactor, args: Params) -> tuple[Tensor, ...]:
        """Natural parameters of the family, matching its statistics one by one."""

    def features(self, factor: SiteFactor, chunk: Chunk) -> Any:
        """What the products take of the data of a chunk."""

    def row(self, factor: SiteFactor) -> int:
        """How many numbers that is a row."""

    def beside(self, features: Sequence[Any]) -> tuple[Any, int]:
        """What the products take of several sites side by side, and how many numbers it is."""

    def densities(self, eta: Tensor, features: Any) -> Tensor:
        """Natural parameters (..., cells, F) and features give log-densities (..., cells, columns)."""

    def statistics(self, weights: Tensor, features: Any, width: int) -> Tensor:
        """Weights (..., cells, columns) and features of so many statistics give these, (..., cells, F)."""

    def log_density(self, factor: SiteFactor, natural: Natural, features: Any, chunk: Chunk) -> Tensor:
        """Log-densities: (starts) + names of the factor."""

    def weighted(
        self, factor: SiteFactor, weights: Tensor, natural: Natural | None, features: Any, chunk: Chunk
    ) -> Tensor:
        """Statistics under `weights`, (starts) + names of the factor; those of chunks add up."""

    def finish(self, factor: SiteFactor, found: Tensor, natural: Natural | None) -> Sums:
        """Statistics of the family, from those of all chunks."""

    def inner(self, factor: SiteFactor, bound: Bound, sums: Sums) -> Tensor:
        """`<eta, S>` of every cell and statistic, (starts, entries)."""

    def by_features(self, factor: SiteFactor) -> Common | None:
        """The site by features that all cells have in common; None where there are none."""


@frozen
class SiteFactor:
    """A compiled site: where its arguments come from, and its data.

    Attributes:
        plates: around the site.
        roles: every argument's map into the bank, broadcast to the cells.
        cells: named dimensions along which the arguments differ.
        names: named dimensions of the factor.
        parameters: all that enter.
        form: how its products are computed.
    """

    name: str
    family: Family
    role: str  # "observed" | "latent"
    plates: frozenset[str]
    roles: Mapping[str, RoleMap] = field(repr=False)
    cells: tuple[str, ...]
    cell_shape: tuple[int, ...]
    data: SiteData
    form: Form
    parameters: frozenset[str] = frozenset()
    kept: str | None = None  # the plate whose rows stay apart in the statistics, if rows of that plate may be split

    # ---- what leads from parameters to densities, and from weights to statistics ----

    def natural(self, bound: Bound, about: Bound | None = None) -> Natural:
        """Bind: natural parameters of every cell, and where its statistics are to be taken."""
        return self.form.natural(self, bound, about)

    def log_density(self, natural: Natural, features: Any, chunk: Chunk = WHOLE) -> Tensor:
        """Log-density of the rows of a chunk: (starts) + `names`, without the base measure."""
        return self.form.log_density(self, natural, features, chunk)

    def weighted(self, weights: Tensor, natural: Natural | None, features: Any, chunk: Chunk = WHOLE) -> Tensor:
        """Expected statistics `S = <W, T(x)>` of every cell: (starts) + batch + cells + (F,), to be added by chunk."""
        return self.form.weighted(self, weights, natural, features, chunk)

    def features(self, chunk: Chunk = WHOLE) -> Any:
        """What the two products take of the data."""
        return self.form.features(self, chunk)

    def finish(self, found: Tensor, natural: Natural | None) -> Sums:
        """Cut summed statistics into those of the family, and move them to where they are wanted."""
        return self.form.finish(self, found, natural)

    def eta(self, bound: Bound, centre: Tensor | None = None) -> Tensor:
        """Natural parameters as one matrix: (starts) + batch + cells + (F,), of values less `centre` or the shift."""
        kept = (*self.data.layout.batch, *self.data.layout.cells)
        inner = (bound.starts, *self.cell_shape, *self.event_shape)
        parts = []
        for k, part in enumerate(with_excess(self.family.natural(self.arguments(bound, centre)), bound.excess(self))):
            event = self.data.events[k]
            if part.shape != (*inner, *event):
                part = part.expand((*inner, *event))
            if kept != self.cells:
                part = align(part, self.cells, (*kept, *self.data.layout.folded), len(self.event_shape) + len(event))
            if part.dim() != 2 + len(kept):
                part = part.reshape((*part.shape[: 1 + len(kept)], -1))
            parts.append(part.sum(-1, keepdim=True) if k in self.data.counting and part.shape[-1] > 1 else part)
        eta = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return eta if self.logarithmic else finite(eta)

    def split(self, found: Tensor) -> tuple[Tensor, ...]:
        """Cut statistics side by side into those of the family: (starts) + cells + events + event of the statistic."""
        before, parts = found.shape[:-1], []
        for start, stop, shape, spread, moved in self._cuts:
            part = found if stop - start == found.shape[-1] else found[..., start:stop]
            if len(shape) != 1:
                part = part.reshape((*before, *shape))
            if spread:
                part = part.expand((*before, *spread))
            parts.append(align(part, *moved) if moved else part)
        return tuple(parts)

    @cached_property
    def _cuts(self) -> list[tuple[int, int, tuple[int, ...], tuple[int, ...], Any]]:
        """Of every statistic: its features, their shape, what one number stands for, and how dimensions are moved."""
        layout, data, found = self.data.layout, self.data, []
        have = (*layout.batch, *layout.cells, *layout.folded)
        dims = (*(self.sizes[n] for n in layout.folded), *self.event_shape)
        for k, event in enumerate(data.events):
            shape, spread = ((1,) * len(dims), dims) if k in data.counting else ((*dims, *event), ())
            moved = None if have == self.cells else (have, self.cells, len(self.event_shape) + len(event))
            found.append((data.places[k], data.places[k + 1], shape, spread, moved))
        return found

    def inner(self, bound: Bound, sums: Sums) -> Tensor:
        """`<eta, S>` of every cell and statistic, the share of this site in `Q`: (starts) + (whatever adds up)."""
        return self.form.inner(self, bound, sums) if sums.coordinates is None else share(sums, bound.batch)

    # ---- arguments ----

    def arguments(self, bound: Bound, centre: Tensor | None = None) -> dict[str, Tensor]:
        """Bind every role to the atoms, as the family expects them (logarithms for probabilities)."""
        args: dict[str, Tensor] = {}
        for key, role in self.roles.items():
            domain = self.family.roles[key].domain
            if role.affine is not None and domain in ("unit", "simplex"):
                logs = role.affine.logs(bound.batch)
                for name, log in zip((key, f"{key}_complement"), logs, strict=True):
                    if log is not None:
                        args[name] = log.clamp(min=LOWEST)
                continue
            if domain in ("unit", "simplex"):
                args[key] = self._log(key, role, bound.logs, bound)
                if domain == "unit":
                    args[f"{key}_complement"] = self._log(f"{key}_complement", role, bound.log_complements, bound)
                continue
            args[key] = gather(role, bound.matrices if domain == "scale_tril" else bound.entries, bound.sources)
            if args[key].dtype != torch.float64:
                args[key] = args[key].double()
            centre = self.data.shift if centre is None else centre
            if centre is not None and key == self.family.location:
                args[key] = args[key] - centre
        return args

    def _log(self, key: str, role: RoleMap, logs: Tensor, bound: Bound) -> Tensor:
        log = gather(self._log_roles[key], logs, bound.batch)
        if role.coefficient is not None:
            log = (log + self._log_coefficients[key.removesuffix("_complement")]).clamp(min=LOWEST)
        return log

    @once
    def locations(self, bound: Bound) -> Tensor:
        """The location of every cell: (starts) + cells + events + event of the location."""
        location = str(self.family.location)
        found = gather(self.roles[location], bound.entries, bound.batch).double()
        tail = found.shape[found.dim() - self.family.roles[location].event_dim :]
        return found.expand((bound.starts, *self.cell_shape, *self.event_shape, *tail))

    # ---- layout, worked out once ----

    def stuck(self, plate: str) -> str:
        """Why rows of `plate` cannot be taken in chunks; empty if they can."""
        if self.family.solver == "rows" and plate in self.plates:  # a single row, too
            return f'the family of site "{self.name}" needs all rows at once'
        return f'an argument of site "{self.name}" differs by row of plate "{plate}"' if plate in self.cells else ""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Of all latents and plates."""
        return self.data.sizes

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Reinterpreted events."""
        return self.data.event_shape

    @property
    def layout(self) -> Layout:
        """Which dimensions are shared, of the cells, of the columns."""
        return self.data.layout

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Named dimensions of the factor, in their order."""
        return ordered(self.laid_out, self.sizes)

    @cached_property
    def laid_out(self) -> tuple[str, ...]:
        """The same in the order of the products."""
        return (*self.layout.batch, *self.layout.cells, *self.layout.columns)

    def laid_out_sizes(self, chunk: Chunk) -> tuple[int, ...]:
        """Sizes of `laid_out` in a chunk."""
        return tuple(chunk.size(n, self.sizes[n]) for n in self.laid_out)

    @cached_property
    def logarithmic(self) -> bool:
        """Whether all arguments are probabilities, whose logarithms are finite as they are bound."""
        return all(role.domain in ("unit", "simplex") for role in self.family.roles.values())

    @property
    def moves(self) -> bool:
        """Whether values and locations have a centre in common."""
        return self.data.shift is not None

    @cached_property
    def centres(self) -> bool:
        """Whether a cell may be computed around its own location, where one centre for all would lose digits."""
        return self.moves and not self.layout.batch and not self.layout.folded

    @cached_property
    def _log_roles(self) -> dict[str, RoleMap]:
        """Roles of probabilities with their constants as logarithms."""
        found = {}
        for key, role in self.roles.items():
            if self.family.roles[key].domain in ("unit", "simplex"):
                plain = replace(role, coefficient=None)
                for name, complement in ((key, False), (f"{key}_complement", True)):
                    if (constant := role.constant) is not None:
                        constant = constant.double()
                        constant = safe_log(1 - constant if complement else constant).clamp(min=LOWEST)
                    found[name] = replace(plain, constant=constant)
        return found

    @cached_property
    def _log_coefficients(self) -> dict[str, Tensor]:
        """Logarithms of the known factors of probabilities."""
        roles = self.roles.items()
        return {k: torch.where(r.index < 0, 0.0, c.log()) for k, r in roles if (c := r.coefficient) is not None}
