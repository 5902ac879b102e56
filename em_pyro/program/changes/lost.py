"""What has a run lost of the arguments that another has: entries that are no numbers any more, or have become zero."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from pyro.ops.gamma_gaussian import GammaGaussian
from pyro.ops.gaussian import AffineNormal, Gaussian
from torch import Tensor
from torch.distributions import Distribution, Transform

from ..named import unexpand
from ..site import Site

MADE_OF = (Distribution, Transform, Gaussian, AffineNormal, GammaGaussian)
"""Of what a distribution may be made, beside tensors."""

TOGETHER = 10_000  # entries of an argument up to which it is looked at together with others

Key = tuple[str, str]
"""A site, and the place of an argument in its distribution."""


class First:
    """The program at its initial values, and how many entries of its arguments are usable there: counted once each."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        """Take a run at the initial values."""
        self.sites, self.counts, self.zeros = sites, dict[Key, int](), dict[Key, Tensor]()
        self.arguments = {
            (name, place): tensor for name, site in sites.items() for place, tensor in arguments_of(site.fn)
        }

    def lost(self, run: Mapping[str, Site]) -> bool:
        """Tell whether an argument is no longer finite, or a rate or probability has become zero, where it was not."""
        moved = dict[Key, list[Tensor]]()
        for name in run:
            for place, tensor in arguments_of(run[name].fn):
                before = self.arguments.get((name, place))
                if before is not None and tensor.data_ptr() != before.data_ptr():
                    moved.setdefault((name, place), []).append(tensor)
        if self._whole(moved):
            return False
        return any(_usable(key, tensor) < self._count(key) for key, tensors in moved.items() for tensor in tensors)

    def lost_of(self, runs: Mapping[Key, Tensor]) -> bool:
        """Tell of several runs whether any may have lost an entry, from all that differs between them, runs first."""
        real, others = list[Tensor](), list[Tensor]()
        for key in runs.keys() & self.arguments.keys():
            each, before, zeros = unexpand(runs[key].detach()), self._zero(key), _may_be_zero(key)
            each = each.reshape(len(each), -1)
            if each.shape[1] < len(before) or (each.shape[1] > len(before) and not zeros):
                return True
            (real if zeros else others).append(each if zeros else torch.where(before, 1.0, each))
        joined = [torch.cat([each.flatten() for each in parts]) if parts else torch.ones(1) for parts in (real, others)]
        return not all(math.isfinite(float(part.sum())) for part in joined) or not bool(joined[1].all())

    def _count(self, key: Key) -> int:
        if key not in self.counts:
            self.counts[key] = _usable(key, self.arguments[key])
        return self.counts[key]

    def _zero(self, key: Key) -> Tensor:
        """Which entries of an argument are zero to begin with: those above the diagonal of a Cholesky factor are."""
        if key not in self.zeros:
            self.zeros[key] = unexpand(self.arguments[key]).detach().reshape(-1) == 0
        return self.zeros[key]

    def _whole(self, moved: Mapping[Key, Sequence[Tensor]]) -> bool:
        """Tell of many small arguments in a few operations whether no entry of any is lost, as mostly none is."""
        seen = {True: dict[int, tuple[Tensor, Tensor, Key]](), False: dict[int, tuple[Tensor, Tensor, Key]]()}
        for key, tensors in moved.items():
            of_kind = seen[_may_be_zero(key)]
            for tensor in tensors:
                if id(tensor) in of_kind:  # some distributions keep it under two names
                    continue
                part = unexpand(tensor).detach()
                if part.numel() > TOGETHER or part.numel() < len(self._zero(key)):
                    return False
                of_kind[id(tensor)] = tensor, part.reshape(-1), key
        for zeros, of_kind in seen.items():
            joined = torch.cat([part for _, part, _ in of_kind.values()]) if of_kind else torch.zeros(0)
            if not math.isfinite(float(joined.sum())):
                return False
            if not zeros and int(torch.count_nonzero(joined)) < joined.numel():
                before = torch.cat([self._zero(key) for _, _, key in of_kind.values()])
                if len(before) != len(joined) or bool(((joined == 0) & ~before).any()):
                    return False
        return True


def _usable(key: Key, tensor: Tensor) -> int:
    """Count the entries that are finite, and not zero where only a real argument may be."""
    tensor, real = unexpand(tensor).detach(), _may_be_zero(key)
    if math.isfinite(float(tensor.sum())):  # then so is every entry
        return tensor.numel() if real else int(torch.count_nonzero(tensor))
    usable = torch.isfinite(tensor)
    return int(torch.count_nonzero(usable if real else usable & (tensor != 0)))


def _may_be_zero(key: Key) -> bool:
    return key[1].endswith(("loc", "logits", "_param"))


def arguments_of(fn: Any, prefix: str = "", inside: tuple[Any, ...] = ()) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of numbers with fractions inside a distribution, by its place there.

    A transform and its inverse hold one another: what is `inside` of is not entered again.
    """
    for key, value in vars(fn).items():
        parts: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
        for part in parts if key != "_cached_x_y" else ():
            if isinstance(part, MADE_OF):
                if not any(part is one for one in inside):
                    yield from arguments_of(part, f"{prefix}{key}.", (*inside, fn))
            elif isinstance(part, Tensor) and (part.is_floating_point() or part.is_complex()):
                yield f"{prefix}{key}", part
