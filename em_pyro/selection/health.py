"""Signs of a maximum that is none one wants: a state with hardly any rows, or one that is narrow beside all data.

The likelihood of many mixtures is unbounded, and beside the infinite there are finite maxima on a few rows that lie
close to a line (a sliver). Counts do not show them; widths do.

References:
    McLachlan, G. and Peel, D. (2000). Finite Mixture Models, section 3.10. Wiley.
"""

from __future__ import annotations

from math import nan

import torch
from torch import Tensor

from ..e_step.engine import Engine
from ..fit.collapse.watched import Watched, pooled_values
from ..fit.problem import Problem
from ..posterior.posterior import Posterior
from ..program.named import Params, batched, connected
from ..reading.bound import Bound

NARROW = 0.1
"""Of the spread of all data: below it a component is flagged; those of ordinary fits have about a fifth to a half."""


def smallest_share(posterior: Posterior) -> float:
    """Return the smallest share that a state of a discrete latent has of its rows, which count by their weights.

    Latents of which one is drawn given another with as many states, in the same plates, are steps of a chain, whose
    rows are taken together. One without discrete latents.
    """
    engine = posterior.engine
    smallest = 1.0
    for chain in _chains(engine):
        total = sum((_rows(posterior, name) for name in chain), torch.zeros(()))
        smallest = min(smallest, float((total / total.sum()).min()))
    return smallest


def _chains(engine: Engine) -> list[list[str]]:
    """Group the latents of chains; others are alone."""
    latents = engine.program.latents

    def kin(name: str) -> list[str]:
        around = [other for other in engine.factors[name].names if other in latents]
        return [
            o for o in around if latents[o].size == latents[name].size and latents[o].plates == latents[name].plates
        ]

    hidden = [[name] for name in engine.inner if name not in latents]
    return connected(latents, ([name, *kin(name)] for name in latents)) + hidden


def _rows(posterior: Posterior, name: str) -> Tensor:
    """Return how many rows every state of a latent has, shape `(K,)`; of hidden ones over all steps."""
    law, site = posterior.marginal(name), posterior.engine.recognition.runs[0][name]
    steps = 0 if name in posterior.engine.program.latents else 1
    batch = law.shape[: law.dim() - 1 - steps]
    weight = torch.as_tensor(site.scale, dtype=torch.float64, device=law.device).expand(batch)
    return (law.reshape((*batch, -1, law.shape[-1])).sum(-2) * weight.unsqueeze(-1)).reshape(-1, law.shape[-1]).sum(0)


def narrowest_width(problem: Problem, params: Params) -> float:
    """Return the width of the narrowest state beside that of all data, in standard deviations, where it is worst.

    Of a site with covariances `S_k` and the covariance `S` of all its rows, it is the root of the smallest eigenvalue
    of `S^-1 S_k` over all `k`: the same in any coordinates, and one for a single component. Sites whose location
    differs from row to row (regressions) are left out, as are those that have no scale. nan if no site is left.
    """
    problem = problem.of_all_rows  # equal rows that were merged count as often as they are there
    bound = problem.bind(batched({name: value.detach().double() for name, value in params.items()}))
    widths = [_narrowest(one, bound) for one in problem.scales.watched if not _moves(problem, one)]
    return min((width for width in widths if width == width), default=nan)


def _moves(problem: Problem, one: Watched) -> bool:
    """Whether the location of a site differs between its rows."""
    if len(one.leaders) > 1:  # a row each
        return True
    reading = problem.engine.recognition.readings.get(one.factor.name)
    if reading is None:
        return True
    locations = (role for name, role in reading.roles.items() if name == "loc")
    return any(set(role.names) & set(reading.site.plates) for role in locations)


def _narrowest(one: Watched, bound: Bound) -> float:
    """The smallest width of one site; nan where its values do not vary."""
    values = pooled_values(one.members)
    values = values.reshape(len(values), -1) if one.role == "scale" else values.reshape(-1, values.shape[-1])
    if one.role == "scale":
        spread = (values - values.nanmean(0)).square().nanmean(0).sqrt()
        spread = spread.reshape(one.pooled.shape)
        ratio = one.roots(bound) / spread
        ratio = ratio[torch.isfinite(ratio)]
        return float(ratio.min()) if ratio.numel() else nan
    whole = values[torch.isfinite(values).all(-1)]
    root, fault = torch.linalg.cholesky_ex(torch.atleast_2d(whole.T.cov(correction=0)))
    if bool(fault):
        return nan
    own = one.factor.arguments(bound)[one.role]
    return float(torch.linalg.svdvals(torch.linalg.solve_triangular(root, own, upper=False)).min())
