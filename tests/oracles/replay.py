"""Run a model at given parameter values, leaving the param store and the modules as they were."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from programs.case import Case
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints, transform_to

Params = Mapping[str, Tensor]
"""Values by name: the store's names of parameters, and the names of continuous latent (MAP) sites."""


def visit(model: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Run the model once, un-enumerated, the global generator left alone; return what Pyro's trace holds, by name."""
    with torch.random.fork_rng(devices=[]):
        return dict(poutine.trace(model).get_trace(*args, **kwargs).nodes)


@contextmanager
def at(
    params: Params | None, model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
) -> Iterator[Callable[..., Any]]:
    """Yield the model with parameters and MAP sites fixed at `params`; those not named keep the store's values.

    A constrained parameter is substituted. An unconstrained one is written in place and put back, because a module's
    weights are read from the module, where `poutine.substitute` does not reach.

    Raises:
        KeyError: if a name is neither a parameter nor a sample site of the model.
    """
    nodes = visit(model, *args, **(kwargs or {}))
    store = pyro.get_param_store()
    domains = store.get_state()["constraints"]
    unconstrained = dict(store.named_parameters())
    substituted, written, conditioned = {}, {}, {}
    for name, value in (params or {}).items():
        if nodes[name]["type"] == "sample":
            conditioned[name] = value
        elif domains[name] is constraints.real:
            written[name] = value
        else:
            substituted[name] = value
    before = {name: unconstrained[name].detach().clone() for name in written}
    fixed = poutine.substitute(model, data=substituted) if substituted else model
    try:
        _write(written, unconstrained)
        yield poutine.condition(fixed, data=conditioned) if conditioned else fixed
    finally:
        _write(before, unconstrained)


def _write(values: Params, tensors: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            tensors[name].copy_(value)


def starting_params(case: Case) -> dict[str, Tensor]:
    """What the program's `pyro.param` statements return, and the case's MAP values."""
    nodes = visit(case.model, *case.args)
    found = {name: node["value"].detach().clone() for name, node in nodes.items() if node["type"] == "param"}
    return {**found, **case.map_values}


def moved_params(case: Case, seed: int, *, size: float = 0.4) -> dict[str, Tensor]:
    """Generic parameter values elsewhere: the starting ones, shifted at random in unconstrained space."""
    nodes = visit(case.model, *case.args)
    domains = pyro.get_param_store().get_state()["constraints"]
    generator = torch.Generator().manual_seed(seed)
    moved = {}
    for name, value in starting_params(case).items():
        transform = transform_to(domains[name] if name in domains else nodes[name]["fn"].support)
        raw = transform.inv(value)
        shift = torch.randn(raw.shape, generator=generator, dtype=torch.float64).to(raw.dtype)
        moved[name] = transform(raw + size * shift).detach()
    return moved
