"""Which latents a tensor was computed from: what Pyro's provenance says, through whatever torch is called with."""

from collections.abc import Callable

import pyro.distributions as dist
import pytest
import torch
from pyro.ops.indexing import Vindex
from pyro.ops.provenance import ProvenanceTensor, get_provenance
from torch import Tensor, tensor

from em_pyro.program.marks import Marked, marks_of

COMPUTED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "sum": lambda a, b: a + b,
    "list": lambda a, b: torch.stack([a, b]),
    "tuple": lambda a, b: torch.broadcast_tensors(a, b),
    "keyword": lambda a, b: torch.where(a > 1, input=b, other=torch.zeros(())),
    "several": lambda a, b: torch.stack([a, b]).max(0),
    "method": lambda a, b: a.reshape(1).expand(3).index_add(0, tensor([0]), b.reshape(1)),
    "index": lambda a, b: Vindex(torch.eye(4))[a.long(), b.long()],
    "in place": lambda a, b: a.clone().add_(b),
    "parts": lambda a, b: torch.stack([a, b]).unbind(0),
    "nothing": lambda a, b: torch.ones(2),
    "shape": lambda a, b: torch.ones(a.reshape(1).shape),
    "distribution": lambda a, b: dist.Normal(a, b.exp()).to_event(0).mask(a > 0),
}


@pytest.mark.parametrize("computed", COMPUTED.values(), ids=COMPUTED)
def test_marks_are_pyros_provenance(computed: Callable[[Tensor, Tensor], object]) -> None:
    """Of two latents, and of one."""
    for latents in (("a", "b"), ("a", "a")):
        ours, theirs = (
            computed(*(kind(tensor(k + 1.0), frozenset({name})) for k, name in enumerate(latents)))
            for kind in (Marked, ProvenanceTensor)
        )
        assert marks_of(ours) == (_inside(theirs) if isinstance(theirs, dist.Distribution) else get_provenance(theirs))


def _inside(fn: object) -> frozenset[str]:
    """What any tensor in a distribution carries."""
    parts = vars(fn).values()
    each = (
        _inside(part) if isinstance(part, torch.distributions.Distribution) else get_provenance(part) for part in parts
    )
    return frozenset[str]().union(*each)
