"""EM for the multinomial of Dempster, Laird and Rubin: 197 animals in four cells, one parameter."""

import numpy as np
import numpy.typing as npt

from . import arguments
from .arguments import Array
from .counts import log_factorial, xlogy
from .path import ParameterPath, Params, climb


def cell_probabilities(p: Array) -> Array:
    """Return `(1/2 + p/4, (1 - p)/4, (1 - p)/4, p/4)`, shape `(4,)`."""
    return np.array([0.5 + p / 4, (1 - p) / 4, (1 - p) / 4, p / 4])


def genetic_linkage(counts: npt.ArrayLike, p: float, *, steps: int) -> ParameterPath:
    """Run EM on four observed cells, the first of which hides two.

    `y ~ Multinomial(1/2 + p/4, (1 - p)/4, (1 - p)/4, p/4)`. Were the first cell split into its parts `x_1 + x_2 = y_1`
    of probability 1/2 and p/4, the log-likelihood would be `(x_2 + y_4) log p + (y_2 + y_3) log(1 - p)`. The E-step is

        x_2 = y_1 (p/4) / (1/2 + p/4),

    and the M-step a proportion:

        p = (x_2 + y_4) / (x_2 + y_2 + y_3 + y_4).

    Args:
        counts: `y`, shape `(4,)`.
        p: the start, above 0 and at most 1.
        steps: how many EM steps.

    Returns:
        The path of "p", `(steps + 1,)`. The responsibilities are those of the two parts for an animal of the first
        cell, shape `(2, 1)`. `log_likelihood` includes the multinomial coefficient, which is `log_constant`.

    Raises:
        ValueError: counts not of shape `(4,)`; `p` outside its domain; counts that are impossible at `p`.

    References:
        Dempster, Laird & Rubin (1977) Journal of the Royal Statistical Society B 39:1-38, section 1 and table 1.
    """
    y = arguments.counts("counts", counts, (4,))
    start = arguments.probabilities("p", p, ())
    arguments.refuse("p", start == 0, start, "a number above 0, which EM never leaves")
    arguments.refuse("counts", np.array(y.sum() == 0), y.sum(), "at least one animal")
    log_constant = float(log_factorial(y.sum()) - log_factorial(y).sum())

    def e_step(params: Params) -> tuple[float, Array]:
        cells = cell_probabilities(params["p"])
        log_likelihood = log_constant + float(xlogy(y, cells).sum())
        if np.isneginf(log_likelihood):
            raise ValueError(f"counts: {y} cannot occur where p is {params['p']:g}.")
        return log_likelihood, np.array([[0.5], [params["p"] / 4]]) / cells[0]

    def m_step(parts: Array) -> Params:
        hidden = y[0] * parts[1, 0]
        return {"p": np.asarray((hidden + y[3]) / (hidden + y[1:].sum()))}

    params, log_likelihood, parts = climb({"p": start}, e_step, m_step, steps=steps)
    return ParameterPath(params, log_likelihood, parts, log_constant)
