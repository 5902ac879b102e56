"""Information criteria: what a fit costs, in log-likelihood, parameters and doubt about the latents."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isnan, log, nan
from numbers import Real
from typing import Any

from ..errors import ParameterError
from ..fit.problem import Problem
from ..posterior.posterior import Posterior, posterior
from ..program.named import Params
from ..records.shown import Shown
from .dimension import dimension
from .rows import independent_rows, most_entropy

NAMES = ("aic", "bic", "sabic", "icl")
"""Criteria by name, all so that smaller is better."""


@dataclass(frozen=True)
class Criteria(Shown):
    """Information criteria of one fit; smaller is better.

    With `L` the log-likelihood, `p` the number of parameters, `n` that of rows and `E` the entropy:
    AIC = -2 L + 2 p, BIC = -2 L + p log n, SABIC = -2 L + p log((n + 2) / 24), ICL = BIC + 2 E.

    Attributes:
        log_likelihood: in nats, of the data without the prior.
        parameters: number of free parameters (`Fit.num_parameters`).
        n: number of independent rows: of the plate that owns the latents, weights (`poutine.scale`) added up. A chain
            is one row, a group with its members is one.
        entropy: `-sum p log p` over the states of all discrete latents, jointly, under their posterior, added up over
            the rows, in nats. It is the soft one; mclust's ICL takes that of the hard assignment, which is smaller.
            Gaussian latents are integrated out and add nothing: a differential entropy depends on units, and may be
            negative. Without discrete latents it is zero, and ICL is BIC.
        most: the entropy if nothing were known of the latents.
        rows: what `n` counts.

    References:
        Akaike, H. (1974). IEEE Transactions on Automatic Control 19, 716-723. Schwarz, G. (1978). Annals of Statistics
        6, 461-464. Sclove, S. L. (1987). Psychometrika 52, 333-343. Biernacki, C., Celeux, G. and Govaert, G. (2000).
        IEEE Transactions on Pattern Analysis and Machine Intelligence 22, 719-725. Celeux, G. and Soromenho, G. (1996).
        Journal of Classification 13, 195-212.
    """

    log_likelihood: float
    parameters: int
    n: float
    entropy: float
    most: float
    rows: str = ""

    @property
    def aic(self) -> float:
        """Akaike's criterion."""
        return -2 * self.log_likelihood + 2 * self.parameters

    @property
    def bic(self) -> float:
        """Schwarz's criterion; nan if no row counts."""
        return -2 * self.log_likelihood + self.parameters * (log(self.n) if self.n > 0 else nan)

    @property
    def sabic(self) -> float:
        """Schwarz's criterion, adjusted for the size of the sample."""
        return -2 * self.log_likelihood + self.parameters * log((self.n + 2) / 24)

    @property
    def icl(self) -> float:
        """Integrated completed likelihood, which is BIC and twice the entropy."""
        return self.bic + 2 * self.entropy

    @property
    def relative_entropy(self) -> float:
        """One where the latents are known, zero where nothing is known of them; nan without discrete latents."""
        return 1 - self.entropy / self.most if self.most > 0 else nan

    def __str__(self) -> str:
        """One number a line."""
        lines = [f"log-likelihood    {self.log_likelihood:.4f}", f"parameters        {self.parameters}"]
        lines.append(f"n                 {self.n:g}{f' ({self.rows})' if self.rows else ''}")
        lines += [f"{name.upper():<17} {getattr(self, name):.4f}" for name in NAMES]
        lines.append(f"entropy           {self.entropy:.4f}")
        if not isnan(self.relative_entropy):
            lines.append(f"relative entropy  {self.relative_entropy:.4f}")
        return "\n".join(lines)


def counted(criteria: Criteria, n: Any) -> Criteria:
    """Return the same with another number of rows.

    Raises:
        ParameterError: `n` is no number above zero.
    """
    if isinstance(n, bool) or not isinstance(n, Real) or not 0 < float(n) < float("inf"):
        raise ParameterError(
            f"criteria: expected n to be a number of rows above zero, got {n!r}. Leave it out, or count."
        )
    return replace(criteria, n=float(n), rows="as given")


def criteria(problem: Problem, log_likelihood: float, law: Posterior) -> Criteria:
    """Work out the criteria of a fit, by the posterior of all rows."""
    rows, what = independent_rows(problem.engine)
    return Criteria(log_likelihood, dimension(problem), rows, law.entropy, most_entropy(problem.engine), what)


def criteria_by_parts(problem: Problem, log_likelihood: float, params: Params) -> Criteria:
    """Work out the criteria of a fit whose rows are read in batches: rows and entropy are summed over these."""
    rows, entropy, most, what = 0.0, 0.0, 0.0, ""
    for engine in problem.rows.parts(problem.engine):
        here, what = independent_rows(engine)
        rows += here
        entropy += posterior(engine, params).entropy
        most += most_entropy(engine)
    return Criteria(log_likelihood, dimension(problem), rows, entropy, most, what)
