"""The log evidence of a program by Pyro alone: `TraceEnum_ELBO` with an empty guide."""

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor

Model = Callable[..., None]
Params = Mapping[str, Any]


class Unweighted(poutine.messenger.Messenger):
    """Count every row once: `TraceEnum_ELBO` has no row weights."""

    def _pyro_sample(self, msg: Any) -> None:
        msg["scale"] = 1.0


def log_evidence(model: Model, *args: Any, params: Params | None = None, **kwargs: Any) -> float:
    """Compute the log evidence at `params`; the model's own starting values stand for those not named.

    Names of parameters are substituted, those of continuous sites conditioned on, and names that are neither ignored.
    """
    values = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in (params or {}).items()}
    fixed = {name: value for name, value in values.items() if name in start(model, *args, **kwargs)}
    with pyro.get_param_store().scope(), torch.no_grad(), Unweighted():
        model = poutine.condition(model, data=values)
        model = poutine.substitute(model, data=fixed) if fixed else model
        trace = poutine.trace(model).get_trace(*args, **kwargs)
        sites = [site for site in trace.nodes.values() if site["type"] == "sample"]
        if all(site["is_observed"] or type(site["fn"]).__name__ == "_Subsample" for site in sites):
            return float(trace.log_prob_sum())
        elbo = TraceEnum_ELBO(max_plate_nesting=max(len(site["cond_indep_stack"]) for site in sites))
        return -float(elbo.loss(config_enumerate(model), lambda *args, **kwargs: None, *args, **kwargs))


def start(model: Model, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
    """Return what the model's `pyro.param` statements start from."""
    with pyro.get_param_store().scope():
        nodes = poutine.trace(model).get_trace(*args, **kwargs).nodes
        return {name: site["value"].detach().clone() for name, site in nodes.items() if site["type"] == "param"}
