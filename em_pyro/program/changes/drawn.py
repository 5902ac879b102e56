"""Random numbers that a model draws by itself, outside of `pyro.sample`: whether what it states hangs on them.

Runs may agree by chance, above all where a coin is thrown once for all rows. So draws are put at one end of what they
may be, then at the other, and then at both by turns: an argmax sees differences alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ...errors import EMError, ModelError
from ..named import Params
from ..program import Program
from ..site import Site
from ..unroll import user_site
from .lost import arguments_of

VALUE = ""
ROUNDING = 1e-9  # relative to one more than a number: noise that is none
UNIT, LINE, ABOVE, MIDDLE = (1e-6, 1 - 1e-6), (-3.0, 3.0), (0.01, 5.0), (0.25, 0.75)
ENDS = {"rand": UNIT, "uniform": UNIT, "randn": LINE, "normal": LINE, "cauchy": LINE, "bernoulli": (0, 1)}
ENDS |= dict.fromkeys(("exponential", "log_normal", "geometric", "poisson", "standard_gamma"), ABOVE)
"""What laws of torch are drawn as, at one end and at the other; others are numbers between zero and one."""
LARGEST: dict[str, Callable[[Sequence[Any], Tensor], Any]] = {
    "multinomial": lambda args, _: args[0].shape[-1] - 1,
    "binomial": lambda args, _: args[0],
    "randint": lambda args, out: _last(args, out),
    "random": lambda args, out: _last(args, out),
}
"""The largest number that laws of whole numbers give; the least is zero."""


class Ends(TorchDispatchMode):
    """Within, draws of torch are at one end: all at the low one, all at the high one, or by turns."""

    def __init__(self, turns: Sequence[int]) -> None:
        """Say at which ends, again and again: 0 is the low one, 1 the high one."""
        super().__init__()
        self.turns = turns

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Draw, for the shape and the dtype, and put other numbers in their place."""
        out = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded not in func.tags or not isinstance(out, Tensor) or not out.numel():
            return out
        name = func.overloadpacket.__name__.strip("_").removesuffix("_like").removesuffix("_functional")
        if name == "randperm":
            return out.copy_(torch.arange(len(out)).flip(0) if self.turns[-1] else torch.arange(len(out)))
        low, high = (0, LARGEST[name](args, out)) if name in LARGEST else ENDS.get(name, MIDDLE)
        places = torch.arange(out.numel()).reshape(out.shape) % len(self.turns)
        at_high = torch.tensor(self.turns, dtype=torch.bool)[places]
        return out.copy_(torch.where(at_high, torch.as_tensor(high), torch.as_tensor(low)))


def _last(args: Sequence[Any], out: Tensor) -> int:
    """The largest whole number below an end, which is stated as `high`, or as `low, high`."""
    ends = [end for end in args if isinstance(end, int)]
    return max(ends, default=int(out.max()) + 1) - 1


def check_drawn(program: Program, params: Params) -> None:
    """Raise where what a model states at the same parameters hangs on what it draws outside of `pyro.sample`.

    Values with which parameters begin may be drawn in every run: they are not taken.

    Raises:
        ModelError: with the site.
    """
    try:
        runs = [_run_at(program, params, turns) for turns in ((0,), (1,), (0, 1))]
    except (EMError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError):
        return  # draws that cannot be at an end; random ones are compared later
    for name, site in runs[0].items():
        here, others = _parts(site), [_parts(run[name]) if name in run else {} for run in runs[1:]]
        for key, part in here.items():
            if not all(key in other and _alike(part, other[key]) for other in others):
                what = "value" if key == VALUE else f'argument "{key.rpartition(".")[2]}"'
                raise ModelError(
                    f'Site "{user_site(name)}": expected {what} to be the same in every run of the model, got one that '
                    f"hangs on numbers that it draws. Draw no random numbers: sample latents by pyro.sample, and pass "
                    f"to the model what is drawn once (data, a mask of dropout)."
                )


def _parts(site: Site) -> dict[str, Tensor]:
    """The value of a site, and the arguments of its distribution."""
    return {VALUE: site.value, **dict(arguments_of(site.fn))}


def _run_at(program: Program, params: Params, turns: Sequence[int]) -> dict[str, Site]:
    with torch.no_grad(), Ends(turns):
        return program.run(params)


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same numbers, but for rounding."""
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), ROUNDING, ROUNDING, equal_nan=True)
