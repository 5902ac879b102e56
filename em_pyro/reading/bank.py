"""The bank of atoms: every parameter entry, through every function of it that the program uses, in one flat vector.

Binding the arguments of a recognised program to new parameter values is then a handful of gathers.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import field, replace
from functools import cached_property

import torch
from torch import Tensor

from ..families.charts import Chart, safe_log, safe_log_complement
from ..program.named import Batch
from ..records.frozen import frozen
from .predictor import Affine

FEW = 100  # entries of an argument up to which Python counts them faster


@frozen
class Segment:
    """One parameter seen through one chart (`1 - chart` where `complement`): a stretch of the bank.

    It is `loose` if its constraint keeps what it is seen as not between zero and one.
    """

    parameter: str
    chart: Chart
    complement: bool
    offset: int
    size: int
    loose: bool = False

    def holds(self, positions: Tensor) -> Tensor:
        """Which positions lie in this stretch."""
        return (positions >= self.offset) & (positions < self.offset + self.size)


@frozen
class RoleMap:
    """Where an argument comes from: `coefficient * bank[index]`, the constant where the index is -1, or a predictor.

    Dimensions: the named ones, then the events of the site, then the events of the role (a matrix is one entry).

    Attributes:
        rows: of a matrix of parameters; the bank may have larger ones.
    """

    names: tuple[str, ...]
    index: Tensor = field(repr=False)
    coefficient: Tensor | None = field(default=None, repr=False)
    constant: Tensor | None = field(default=None, repr=False)
    affine: Affine | None = field(default=None, repr=False)
    rows: int | None = None

    @cached_property
    def known(self) -> bool:
        """Whether no parameter enters."""
        return self.affine is None and bool((self.index < 0).all())

    @cached_property
    def positions(self) -> Tensor:
        """The index with constants pointing at position 0."""
        return self.index.clamp(min=0)

    @cached_property
    def stretch(self) -> tuple[int, int] | None:
        """The first atom and their number if they are selected one by one, in order: a view does then; else None."""
        flat = self.index.reshape(-1)
        if not len(flat) or int(flat[0]) < 0 or self.index.dim() == 0:
            return None
        first = int(flat[0])
        same = torch.equal(flat, torch.arange(first, first + len(flat), device=flat.device))
        return (first, len(flat)) if same else None

    @cached_property
    def entries(self) -> Tensor:
        """Bank positions that occur, in order."""
        if self.index.numel() > FEW:
            return self.index[self.index >= 0].unique()
        entries = {k for k in self.index.flatten().tolist() if k >= 0}
        return torch.tensor(sorted(entries), dtype=torch.long, device=self.index.device)

    @property
    def compressed(self) -> RoleMap:
        """The map without named dimensions along which the program only materialised copies."""
        role = self
        for k in reversed(range(len(role.names))):
            parts = (role.index, role.coefficient, role.constant)
            if all(p is None or bool((p == p.narrow(k, 0, 1)).all()) for p in parts):
                cut = [None if p is None else p.select(k, 0) for p in parts]
                names = role.names[:k] + role.names[k + 1 :]
                role = RoleMap(names, cut[0], cut[1], cut[2], rows=role.rows)  # type: ignore[arg-type]
        return role

    def along(self, names: tuple[str, ...]) -> RoleMap:
        """The same map along dimensions of other names."""
        return self if names == self.names else replace(self, names=names).occurring(self.entries)

    def occurring(self, entries: Tensor) -> RoleMap:
        """Take the positions that occur as given: the steps of a loop share them, and they are looked for once."""
        self.__dict__["entries"] = entries
        return self

    def moved(self, where: Tensor) -> RoleMap:
        """The same map after bank position `p` has become `where[p]`."""
        moved = replace(self, index=torch.where(self.index < 0, -1, where[self.positions]))
        return moved.occurring(where[self.entries])  # still in order


@frozen
class Bank:
    """Layout of the atoms: `entries` of plain arguments, `probabilities` bound as logarithms, whole `matrices`.

    Some may be of arguments that the model computes from the parameters: `computed` gives these, starts first;
    `unrecorded` says why the model is run for that in every step, and is empty where it is not; `scaling` names the
    parameters of which scales among them are made, where that is known.
    """

    entries: tuple[Segment, ...]
    probabilities: tuple[Segment, ...]
    matrices: tuple[Segment, ...]
    computed: Callable[[Batch], dict[str, Tensor]] | None = field(default=None, repr=False)
    unrecorded: str = ""
    scaling: frozenset[str] = frozenset()

    @cached_property
    def plain(self) -> bool:
        """Whether no chart of a probability has a logarithm of its own: one logarithm does for all of them."""
        return all(s.chart.log is None and s.chart.log_complement is None and not s.loose for s in self.probabilities)

    def of(self, domain: str) -> tuple[Segment, ...]:
        """Segments that arguments of a domain select from."""
        segments: tuple[Segment, ...] = getattr(self, list_of(domain))
        return segments

    def parameters(self, role: RoleMap, domain: str) -> frozenset[str]:
        """Parameters that enter an argument."""
        if role.affine is not None:
            return frozenset(name for name, _ in role.affine.entries)
        return frozenset(segment.parameter for segment in self.touched(role, domain))

    def touched(self, role: RoleMap, domain: str) -> tuple[Segment, ...]:
        """Segments that an argument selects from, in order."""
        key = id(role.entries), list_of(domain)
        if key not in self._touched:
            segments, ends, entries = self.of(domain), self._ends[list_of(domain)], role.entries.tolist()
            found, k = list[Segment](), 0
            while k < len(entries):  # in order: on to the first entry after a segment
                place = bisect_right(ends, entries[k])
                found.append(segments[place])
                k = bisect_left(entries, ends[place], k)
            self._touched[key] = role.entries, tuple(found)  # kept alive with their identity
        return self._touched[key][1]

    @cached_property
    def _touched(self) -> dict[tuple[int, str], tuple[Tensor, tuple[Segment, ...]]]:
        """What `touched` has found: the steps of a loop share their entries, and a plan asks several times."""
        return {}

    @cached_property
    def _ends(self) -> dict[str, list[int]]:
        """Where the segments of every list end."""
        lists = {"entries": self.entries, "probabilities": self.probabilities, "matrices": self.matrices}
        return {name: [s.offset + s.size for s in segments] for name, segments in lists.items()}

    def values(self, batch: Batch) -> Tensor:
        """All plain atoms, shape `(starts, M)`."""
        return entries_of(self.entries, batch)

    def logs(self, batch: Batch, *, complement: bool = False) -> Tensor:
        """Logarithms of all probabilities, or of one minus them, shape `(starts, M)`."""
        if self.plain:
            joined = entries_of(self.probabilities, batch)
            return (safe_log_complement if complement else safe_log)(joined)
        found = dict[tuple[str, str, bool], Tensor]()
        for s in self.probabilities:
            key = s.parameter, s.chart.name, s.complement != complement
            if key not in found:
                found[key] = s.chart.logarithm(batch[s.parameter], complement=key[2])
                if s.loose:  # a count of zero would hide that one of two probabilities is none
                    value = s.chart.forward(batch[s.parameter])
                    found[key] = torch.where((value < 0) | (value > 1), torch.nan, found[key])
        keys = [(s.parameter, s.chart.name, s.complement != complement) for s in self.probabilities]
        return _joined([found[key] for key in keys])

    def stack(self, batch: Batch) -> Tensor:
        """All matrices as Cholesky factors, shape `(starts, M, D, D)`: smaller ones have the identity below them."""
        if not self.matrices:
            return torch.zeros(0, dtype=torch.float64)
        parts = [s.chart.forward(batch[s.parameter]) for s in self.matrices]
        parts = [p if p.dim() == 4 else p.reshape((p.shape[0], -1, *p.shape[-2:])) for p in parts]
        largest = max(p.shape[-1] for p in parts)
        parts = [p if p.shape[-1] == largest else _enlarged(p, largest) for p in parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _enlarged(factor: Tensor, size: int) -> Tensor:
    """Put the identity below factors."""
    more = size - factor.shape[-1]
    one = torch.nn.functional.pad(factor.new_ones(more), (size - more, 0)).diag_embed()
    return torch.nn.functional.pad(factor, (0, more, 0, more)) + one


def list_of(domain: str) -> str:
    """Name the list of a bank from which arguments of a domain select."""
    if domain in ("unit", "simplex"):
        return "probabilities"
    return "matrices" if domain == "scale_tril" else "entries"


def entries_of(segments: Iterable[Segment], batch: Batch) -> Tensor:
    """Return all atoms of some segments, shape `(starts, M)`."""
    parts = []
    for s in segments:
        value = s.chart.forward(batch[s.parameter])
        parts.append(1 - value if s.complement else value)
    return _joined(parts)


def packed(segments: Sequence[Segment], used: Iterable[Tensor]) -> tuple[tuple[Segment, ...], Tensor]:
    """Keep the segments that any of the used positions lies in; return them and where every position has gone."""
    positions = torch.cat([*used, torch.zeros(0, dtype=torch.long)])
    size = max((s.offset + s.size for s in segments), default=0)
    where, kept, offset = torch.full((size,), -1), [], 0
    occurring = torch.zeros(size, dtype=torch.bool).index_fill_(0, positions, value=True)
    for s in segments:
        if bool(occurring[s.offset : s.offset + s.size].any()):
            where[s.offset : s.offset + s.size] = torch.arange(offset, offset + s.size)
            kept.append(replace(s, offset=offset))
            offset += s.size
    return tuple(kept), where


def gather(role: RoleMap, atoms: Tensor, batch: Batch) -> Tensor:
    """Bind one argument: (starts) + its dimensions; a known one has no starts, and broadcasts."""
    if role.affine is not None:
        return role.affine.argument(batch)
    if role.known:
        assert role.constant is not None
        return role.constant
    if role.stretch is not None:
        start, size = role.stretch
        bound = atoms if size == atoms.shape[1] else atoms.narrow(1, start, size)
        if role.index.dim() > 1:
            bound = bound.reshape((atoms.shape[0], *role.index.shape, *atoms.shape[2:]))
    else:
        bound = atoms[:, role.positions]
    if role.rows is not None and role.rows < atoms.shape[-1]:
        bound = bound[..., : role.rows, : role.rows]
    if role.coefficient is not None:
        bound = bound * role.coefficient
    return bound if role.constant is None else torch.where(role.index < 0, role.constant, bound)


def bound_once(role: RoleMap, atoms: Tensor, batch: Batch) -> Tensor:
    """Bind one argument at a batch of one start, without the dimension of starts."""
    found = gather(role, atoms, batch)
    return found if role.known else found.squeeze(0)


def _joined(parts: list[Tensor]) -> Tensor:
    if not parts:
        return torch.zeros((1, 0), dtype=torch.float64)
    parts = [p if p.dim() == 2 else p.reshape((p.shape[0], -1)) for p in parts]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)
