"""The entropy of the posterior: how much the data leave open about the latents."""

from __future__ import annotations

from typing import Any

import torch


def entropy(posterior: Any) -> float:
    """Return `-sum p log p` of the discrete latents, jointly, added up over the rows, in nats."""
    total = 0.0
    for name in posterior.engine.program.latents:
        p = posterior.marginal(name)
        total -= float(torch.special.xlogy(p, p).sum())
    return total
