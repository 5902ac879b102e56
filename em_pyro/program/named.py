"""Tensors whose batch dimensions carry the names of plates and latents, and what lies under a wrapped distribution."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..errors import ModelError
from ..records.frozen import frozen

Params = Mapping[str, Tensor]
"""Values of parameters, by the names that the user gave them."""

Batch = Mapping[str, Tensor]
"""Values of the parameters of several starts, or of one: a dimension of starts stands before those of `Params`."""

Item = TypeVar("Item", bound=Hashable)

SLICE = 65_536  # rows at a time, where all data are looked at once: nothing as long as the data is made


@frozen
class Named:
    """A tensor whose leading dimensions are named; trailing dimensions, if any, belong to an event."""

    tensor: Tensor
    names: tuple[str, ...]

    def align(self, names: Sequence[str]) -> Tensor:
        """View with one leading dimension for each of `names`, of size one where this tensor lacks it.

        Dimensions before the named ones (a batch of starts) and after them (an event) stay where they are.
        """
        return align(self.tensor, self.names, names, self.tensor.dim() - len(self.names))


def align(tensor: Tensor, have: Sequence[str], want: Sequence[str], trailing: int = 0) -> Tensor:
    """Permute and unsqueeze `tensor` from the named dimensions `have` to `want`; `trailing` dimensions stay last."""
    if tuple(have) == tuple(want):
        return tensor
    lead = tensor.dim() - len(have) - trailing
    order = [lead + have.index(n) for n in want if n in have]
    tensor = tensor.permute((*range(lead), *order, *range(lead + len(have), tensor.dim())))
    index: list[Any] = [slice(None)] * lead + [slice(None) if n in have else None for n in want]
    return tensor[tuple(index)]


def squeeze(tensor: Tensor, dims: Mapping[int, str], site: str, event_dim: int = 0) -> Named:
    """Name the batch dimensions of `tensor` by `dims` (negative dimension -> name) and drop those of size one.

    Raises:
        ModelError: a batch dimension of size above one belongs to no plate and no latent.
    """
    shape = tensor.shape
    batch = len(shape) - event_dim
    keep = [i for i in range(batch) if shape[i] > 1]
    for i in keep:
        if i - batch not in dims:
            first = min(dims, default=0)
            raise ModelError(
                f'Site "{site}": expected every batch dimension to belong to a plate, got batch shape '
                f"{tuple(shape[:batch])} with nothing declared for dimension {i - batch}. Enclose it in "
                f'pyro.plate("data", {shape[i]}) or call .to_event(1).'
                + (
                    f' States of "{dims[first]}" have dimension {first} by themselves: if these are its states, leave '
                    f"out what adds a dimension to its value (unsqueeze, [..., None])."
                    if i - batch < first < 0
                    else ""
                )
            )
    if len(keep) < batch:
        tensor = tensor.squeeze([i for i in range(batch) if shape[i] == 1])
    return Named(tensor, tuple([dims[i - batch] for i in keep]))


def unexpand(tensor: Tensor, event_dim: int = 0) -> Tensor:
    """Undo `expand`: batch dimensions of stride zero get size one; the last `event_dim` dimensions stay.

    The result is a view of what was expanded, so that a gradient never passes through a tensor of the expanded size.
    """
    strides = tensor.stride()
    if 0 not in strides:
        return tensor
    whole = list(tensor.shape)
    last = len(whole) - event_dim
    shape = [1 if i < last and strides[i] == 0 and size > 1 else size for i, size in enumerate(whole)]
    if shape == whole:
        return tensor
    base = tensor._base
    if base is None or base.dtype != tensor.dtype:
        return tensor[tuple(slice(0, size) for size in shape)]
    return base.as_strided(shape, strides, tensor.storage_offset())


class Sizes(dict[str, int]):
    """Sizes of named dimensions, in the order in which they stand in a tensor; a few can be put in order quickly."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        """Take the sizes in their order."""
        super().__init__(sizes)
        self.place = {name: k for k, name in enumerate(sizes)}


def ordered(names: Iterable[str], sizes: Mapping[str, int]) -> tuple[str, ...]:
    """Return those of `names` that have a size, each once, in the order of `sizes`."""
    if isinstance(sizes, Sizes):  # a long program has thousands of dimensions, and a site two or three
        return tuple(sorted({n for n in names if n in sizes}, key=sizes.place.__getitem__))
    these = set(names)
    return tuple(n for n in sizes if n in these)


def broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    """Return the shape that all broadcast to (`torch.broadcast_shapes` imports a library for symbolic shapes).

    Raises:
        RuntimeError: as torch does, where they do not.
    """
    found = [1] * max(map(len, shapes), default=0)
    for shape in shapes:
        for k, size in enumerate(shape, len(found) - len(shape)):
            if size != 1:
                if found[k] not in (1, size):
                    raise RuntimeError(f"expected shapes that broadcast, got {[tuple(one) for one in shapes]}")
                found[k] = size
    return tuple(found)


def unraveled(index: Tensor, shape: Sequence[int]) -> tuple[Tensor, ...]:
    """Return the place along every dimension of `shape` (`torch.unravel_index` imports what `broadcast` avoids)."""
    places = list[Tensor]()
    for size in reversed(shape):
        index, place = index // size, index % size
        places.append(place)
    return tuple(reversed(places))


@frozen
class Unwrapped:
    """The distribution under `.to_event`, `.mask` and `.expand`."""

    base: Distribution
    event_rank: int  # how many batch dimensions of `base` are events of the site
    mask: Tensor | None  # over the batch shape of `base`


def unwrap(fn: Distribution) -> Unwrapped:
    """Look through `Independent`, `MaskedDistribution`, `ExpandedDistribution` and `Unconstrained`."""
    rank, mask = 0, None
    while True:
        kind = type(fn).__name__
        if kind == "Independent":
            events = fn.reinterpreted_batch_ndims  # type: ignore[attr-defined]
            rank += events
            mask = None if mask is None else mask.reshape(mask.shape + (1,) * events)
        elif kind == "MaskedDistribution":
            own = unexpand(torch.as_tensor(fn._mask))  # type: ignore[attr-defined]
            mask = own if mask is None else mask & own
        elif kind not in ("ExpandedDistribution", "Unconstrained"):
            return Unwrapped(fn, rank, mask)
        fn = fn.base_dist  # type: ignore[attr-defined]


def connected(items: Iterable[Item], meetings: Iterable[Iterable[Item]]) -> list[list[Item]]:
    """Split `items` into the groups that no meeting joins, in their order; what meets and is no item is passed over."""
    root = {item: item for item in items}

    def find(item: Item) -> Item:
        while root[item] != item:
            root[item] = root[root[item]]
            item = root[item]
        return item

    for meeting in meetings:
        met = [item for item in meeting if item in root]
        for other in met[1:]:
            root[find(other)] = find(met[0])
    groups: dict[Item, list[Item]] = {}
    for item in root:
        groups.setdefault(find(item), []).append(item)
    return list(groups.values())


def listed(names: Sequence[str]) -> str:
    """Join the first names, and say how many there are if there are more."""
    return ", ".join(names[:3]) + (f", ... ({len(names)})" if len(names) > 3 else "")


def batched(params: Params) -> dict[str, Tensor]:
    """One start as a batch."""
    return {name: value.unsqueeze(0) for name, value in params.items()}


def only(batch: Batch) -> dict[str, Tensor]:
    """Return the one start of a batch; several have no values of one."""
    assert all(len(value) == 1 for value in batch.values())
    return {name: value.squeeze(0) for name, value in batch.items()}


def alike(one: Params, other: Params) -> bool:
    """Tell whether two sets of values are the same to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)
