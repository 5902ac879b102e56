"""A place to run in that leaves no trace: a param store of its own, modules restored, generators as they were."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping

import pyro
import torch
from torch import Tensor

from ..fit.problem import Problem
from ..program.devices import untouched_generators
from ..program.program import quiet
from ..program.store import write


@contextlib.contextmanager
def arena(here: Problem, start: Mapping[str, Tensor], seed: int) -> Iterator[list[str]]:
    """Put `start` into a param store of its own, fix the global generators, and undo everything at the end.

    The model runs once first: its modules then hold the very tensors that the store holds, which are written in place
    and restored at the end.

    Yields:
        A list to which the warnings raised inside are added at the end.
    """
    program, said = here.program, list[str]()
    store = pyro.get_param_store()
    with store.scope(), untouched_generators(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.manual_seed(seed)
        with quiet():
            program.model(*program.args, **program.kwargs)
        weights = [p.tensor for p in program.parameters.values() if p.tensor is not None]
        saved = [(t, t.detach().clone(), t.grad) for t in [*store._params.values(), *weights]]
        try:
            write(program, start)
            yield said
        finally:
            for tensor, value, grad in saved:
                with torch.no_grad():
                    tensor.copy_(value)
                tensor.grad = grad
            said += sorted({str(w.message) for w in caught})


def plate_depth(here: Problem) -> int:
    """`max_plate_nesting` of the model; told to Pyro, which would otherwise run the model to guess it."""
    return max((-dim for dim in here.program.plate_dims.values()), default=0)


def prior_sites(here: Problem) -> list[str]:
    """Return the parameters with a prior: the continuous latents."""
    return [name for name, p in here.program.parameters.items() if p.kind == "prior"]
