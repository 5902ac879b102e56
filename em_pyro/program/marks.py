"""Which latents a tensor was computed from: Pyro's provenance, without a walk through every tree of arguments."""

from __future__ import annotations

from typing import Any

from pyro.ops.provenance import ProvenanceTensor, extract_provenance, track_provenance
from torch import Tensor
from torch.distributions import Distribution

Marks = frozenset[str]


class Marked(ProvenanceTensor):
    """A tensor that carries the names of latents; what is computed from it carries them too."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute by plain tensors, and mark what comes out."""
        found = set[str]()
        plain = _plain(args, found), _plain(kwargs or {}, found)
        return _marked(func(*plain[0], **plain[1]), frozenset(found))


def _plain(value: Any, found: set[str]) -> Any:
    """Take the marks off all tensors inside, and add them to `found`."""
    if isinstance(value, ProvenanceTensor):
        found |= value._provenance
        return value._t
    kind = type(value)
    if kind is tuple or kind is list:
        return kind([_plain(part, found) for part in value])
    if kind is dict:
        return {key: _plain(part, found) for key, part in value.items()}
    if isinstance(value, (tuple, list, dict, set, frozenset)):  # of a kind that Pyro takes apart
        value, marks = extract_provenance(value)
        found |= marks
    return value


def _marked(value: Any, marks: Marks) -> Any:
    if isinstance(value, ProvenanceTensor):
        return track_provenance(value, marks)
    if isinstance(value, Tensor):
        return Marked(value, marks)
    if type(value) is tuple or type(value) is list:
        return type(value)([_marked(part, marks) for part in value])
    return track_provenance(value, marks)


def marks_of(*values: Any) -> Marks:
    """Return the latents on which any tensor in some values, or inside some distributions, depends."""
    found = set[str]()
    for value in values:
        if isinstance(value, Distribution):
            found |= marks_of(*vars(value).values())
        else:
            _plain(value, found)
    return frozenset(found)
