"""Genetic linkage, the opening example of Dempster, Laird and Rubin: 197 animals in four cells.

The cells have probabilities 1/2 + p/4, (1 - p)/4, (1 - p)/4 and p/4. Two ways to complete the data:

    five cells                               two coins

          p ()                                                 p ()
          |                                                    |
    +-----|------- animal: N --+             +-----------------|--------- animal: N --+
    |     v                    |             |                 v                      |
    |    cell --> observed     |             |   half       linked                    |
    +--------------------------+             |     |          |                       |
                                             |     +--> observed <--+                 |
                                             +----------------------------------------+

In the first, the first cell is two cells that look alike. In the second, an animal of the first half shows nothing of
`linked`, which is a coin all the same. The likelihood is one; the iterates are not: the published ones (rate 0.13278)
belong to the five cells, and the two coins, which leave more unseen, are slower. Neither is wrong.

Closed form: `p`, through the known multiples p/4 and (1 - p)/4 of p and 1 - p (Categorical cells), or Bernoulli probs.

Data: `load("linkage")`; repeat each cell as often as it was counted.

References:
    Dempster, A. P., Laird, N. M. and Rubin, D. B. (1977). Maximum likelihood from incomplete data via the EM algorithm.
    JRSS B 39, 1-38, section 1.
    Rao, C. R. (1965). Linear Statistical Inference and its Applications, section 5g. Wiley.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from .seeded import seeded

CELLS = (0, 0, 1, 2, 3)
"""The observed cell of each of the five hidden cells 1/2, p/4, (1 - p)/4, (1 - p)/4, p/4."""


def five_cells(observed: Tensor) -> None:
    """Split the first cell in two.

    Params: `p` `()`. Sites: `cell` (latent), `observed`.

    Args:
        observed: cell of each animal, 0 to 3, shape `(N,)`, integers.
    """
    half = _real(observed, 0.5)
    p = pyro.param("p", half, constraint=constraints.unit_interval)
    looks = _real(observed, torch.eye(4)[list(CELLS)]).log()
    with pyro.plate("animal", len(observed)):
        probs = torch.stack([half, p / 4, (1 - p) / 4, (1 - p) / 4, p / 4])
        cell = pyro.sample("cell", dist.Categorical(probs))
        pyro.sample("observed", dist.Categorical(logits=looks[cell]), obs=observed)


def two_coins(observed: Tensor) -> None:
    """Toss a fair coin for the first half, and a coin with probability `p` for linkage, seen in the other half only.

    Params: `p` `()`. Sites: `half`, `linked` (latent), `observed`.

    Args:
        observed: cell of each animal, 0 to 3, shape `(N,)`, integers.
    """
    p = pyro.param("p", _real(observed, 0.5), constraint=constraints.unit_interval)
    not_linked, linked_ends, first = [0, 0.5, 0.5, 0], [0.5, 0, 0, 0.5], [1.0, 0, 0, 0]
    table = _real(observed, torch.tensor([[not_linked, linked_ends], [first, first]])).log()
    with pyro.plate("animal", len(observed)):
        half = pyro.sample("half", dist.Bernoulli(_real(observed, 0.5))).long()
        linked = pyro.sample("linked", dist.Bernoulli(p)).long()
        pyro.sample("observed", dist.Categorical(logits=table[half, linked]), obs=observed)


def simulate(n: int = 197, p: float = 0.6, seed: int | torch.Generator = 0) -> Tensor:
    """Draw the cell of each of `n` animals, shape `(n,)`."""
    with seeded(seed):
        probs = torch.tensor([0.5 + p / 4, (1 - p) / 4, (1 - p) / 4, p / 4])
        return dist.Categorical(probs).sample((n,))


def _real(like: Tensor, value: float | Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=torch.get_default_dtype(), device=like.device)
