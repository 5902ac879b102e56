"""Concrete runs of a model: its discrete latents, and a table of every factor over given joint assignments."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from oracles.replay import Params, at, visit


@dataclass(frozen=True)
class Latent:
    """A discrete latent site: its `support`, shape `(K, *event)`, and the batch `shape` of the site."""

    name: str
    support: Tensor
    shape: torch.Size


def find_latents(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], params: Params | None
) -> tuple[Latent, ...]:
    """Discrete latent sites in the order in which the model samples them.

    Raises:
        ValueError: if a latent is neither discrete nor given a value.
    """
    with at(params, model, args, kwargs) as fixed:
        nodes = visit(fixed, *args, **kwargs)
    latents = []
    for name, node in nodes.items():
        if node["type"] == "sample" and not node["is_observed"] and not node["infer"].get("_deterministic"):
            fn = node["fn"]
            if type(fn).__name__ == "_Subsample":
                continue
            if not fn.has_enumerate_support:
                raise ValueError(f'site "{name}" is continuous: give it a value in params')
            support = fn.enumerate_support(expand=False)
            latents.append(Latent(name, support.reshape(len(support), *fn.event_shape), fn.batch_shape))
    return tuple(latents)


def assignment(latents: tuple[Latent, ...], digits: Tensor) -> dict[str, Tensor]:
    """Values of all latents, each of shape `(*batch, *event)`, from the digits of one line, shape `(E,)`."""
    parts = digits.split([latent.shape.numel() for latent in latents])
    return {
        latent.name: latent.support[part].reshape(latent.shape + latent.support.shape[1:])
        for latent, part in zip(latents, parts, strict=True)
    }


def run_all(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    params: Params | None,
    latents: tuple[Latent, ...],
    digits: Tensor,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Log factors of each site, shape `(R, *site)`, one run a line, zero on lines where it did not occur; its scale."""
    names = {latent.name for latent in latents}
    tables: dict[str, Tensor] = {}
    scales: dict[str, Tensor] = {}
    with torch.no_grad(), at(params, model, args, kwargs) as fixed, pyro.validation_enabled(is_validate=False):
        for line, of_line in enumerate(digits):  # `at` has run the model once, its arguments validated
            nodes = visit(poutine.condition(fixed, data=assignment(latents, of_line)), *args, **kwargs)
            for name, node in nodes.items():
                if node["type"] != "sample" or not node["is_observed"] or node["infer"].get("_deterministic"):
                    continue
                factor = node["fn"].log_prob(node["value"]).double()
                if node["mask"] is not None and name not in names:
                    factor = torch.where(torch.as_tensor(node["mask"]), factor, 0.0)
                if name not in tables:
                    scales[name] = torch.as_tensor(node["scale"]).double()
                    tables[name] = torch.zeros(len(digits), *factor.shape).double()
                tables[name][line] = factor
    return tables, scales
