"""ABO blood groups: the frequencies of three alleles from the four phenotypes, under Hardy-Weinberg equilibrium.

            frequency (3)
             |        |
    +--------|--------|--------- person: N --+
    |        v        v                      |
    |    maternal  paternal                  |
    |        |        |                      |
    |        +--> phenotype <--+             |
    +----------------------------------------+

A and B are codominant and O recessive, so that A has genotypes AA and AO. Written with cells 2pq the frequencies enter
as products; written with the two alleles a person inherits, each is a draw from one distribution.

Closed form: `frequency` (Categorical probs, two sites pooled): gene counting.

Data: `load("abo")`, 521 duodenal ulcer patients; repeat each phenotype as often as it was counted.

References:
    Ceppellini, R., Siniscalco, M. and Smith, C. A. B. (1955). The estimation of gene frequencies in a random-mating
    population. Annals of Human Genetics 20, 97-115.
    Clarke, C. A. et al. (1959). The relationship of the ABO blood groups to duodenal and gastric ulceration. BMJ 1.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from .seeded import seeded
from .start import uniform

PHENOTYPES = ("A", "B", "AB", "O")
PHENOTYPE = ((0, 2, 0), (2, 1, 1), (0, 1, 3))
"""The phenotype of each pair of alleles A, B, O."""


def abo(phenotype: Tensor) -> None:
    """Inherit one allele from each parent.

    Params: `frequency` of the alleles A, B, O, shape `(3,)`. Sites: `maternal`, `paternal` (latent), `phenotype`.

    Args:
        phenotype: position in `PHENOTYPES`, shape `(N,)`, integers.
    """
    frequency = pyro.param("frequency", uniform(3, phenotype), constraint=constraints.simplex)
    looks = torch.eye(4, dtype=frequency.dtype, device=frequency.device)[torch.tensor(PHENOTYPE)].log()
    with pyro.plate("person", len(phenotype)):
        maternal = pyro.sample("maternal", dist.Categorical(frequency))
        paternal = pyro.sample("paternal", dist.Categorical(frequency))
        pyro.sample("phenotype", dist.Categorical(logits=looks[maternal, paternal]), obs=phenotype)


def simulate(n: int = 500, frequency: tuple[float, ...] = (0.25, 0.1, 0.65), seed: int | torch.Generator = 0) -> Tensor:
    """Draw the phenotype of each of `n` people, shape `(n,)`."""
    with seeded(seed):
        alleles = dist.Categorical(torch.tensor(frequency)).sample((2, n))
        return torch.tensor(PHENOTYPE)[alleles[0], alleles[1]]
