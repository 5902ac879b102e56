"""Transcript quantification from equivalence classes: how much of each transcript made these reads?

         share (T)     compatible (C, T), lengths (T): known
           |                    |
    +------|--------------------|---- class: C, each counted n_c times --+
    |      v                    v                                        |
    |  transcript --------> alignment                                    |
    +--------------------------------------------------------------------+

A read of transcript `t` starts anywhere on its effective length with equal density. Reads compatible with the same
transcripts have one posterior; they are one row, weighted by their number:

    L(share) = prod_c (sum over t compatible with c of share_t / length_t) ^ n_c

Closed form: `share` (Categorical probs). The log-likelihood is concave: any positive start ends at one maximum.

Data: simulated.

References:
    Nicolae, M. et al. (2011). Estimation of alternative splicing isoform frequencies from RNA-Seq data. Algorithms for
    Molecular Biology 6, 9.
    Bray, N. L. et al. (2016). Near-optimal probabilistic RNA-seq quantification. Nature Biotechnology 34, 525-527.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from .seeded import seeded
from .start import real, uniform


def transcripts(counts: Tensor, compatible: Tensor, lengths: Tensor) -> None:
    """Draw the transcript of each read; the reads of a class look alike.

    Params: `share` of the reads made by each transcript `(T,)`. Sites: `transcript` (latent), `alignment` (a factor).

    Args:
        counts: number of reads in each equivalence class, shape `(C,)`; classes without reads are left out.
        compatible: which transcripts the reads of a class can come from, shape `(C, T)`, bool.
        lengths: effective length of each transcript, shape `(T,)`.
    """
    lengths = real(lengths)
    share = pyro.param("share", uniform(len(lengths), lengths), constraint=constraints.simplex)
    seen = counts > 0
    log_density = torch.where(compatible[seen], -lengths.log(), -torch.inf)
    row = torch.arange(len(log_density), device=lengths.device)
    with pyro.plate("class", len(row)), poutine.scale(scale=real(counts[seen])):
        transcript = pyro.sample("transcript", dist.Categorical(share))
        pyro.factor("alignment", log_density[row, transcript])


def simulate(
    reads: int = 2000, T: int = 5, C: int = 12, seed: int | torch.Generator = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw reads of `T` transcripts into up to `C` equivalence classes, the first `T` of one transcript each.

    Returns:
        `counts` `(C,)`, `compatible` `(C, T)`, `lengths` `(T,)`: the arguments of `transcripts`.
    """
    with seeded(seed):
        compatible = torch.cat([torch.eye(T), (torch.rand(C - T, T) < 0.5).to(torch.get_default_dtype())]).bool()
        lengths = torch.randint(200, 2000, (T,)).to(torch.get_default_dtype())
        transcript = dist.Categorical(dist.Dirichlet(torch.ones(T)).sample()).sample((reads,))
        of_read = dist.Categorical(compatible.T[transcript].to(lengths.dtype)).sample()
        return torch.bincount(of_read, minlength=C), compatible, lengths
