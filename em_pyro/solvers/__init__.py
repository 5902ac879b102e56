"""Closed-form maximisers of `Q`: they pool expected statistics over everything that the program ties, and solve.

Each solver owns the parameters of one block. `solve(statistics, params)` returns their new values; leading dimensions
of `params` are starts. An entry that no weight reaches keeps its value.
"""

from .joint import Joint
from .matrix import MatrixBlock, MatrixUse, Whole
from .normal import NormalBlock, NormalUse
from .probabilities import Counts, Rates
from .select import Params, PriorUnbounded, Refused, Selected, Statistics, pool, select, used_charts

__all__ = [
    "Counts",
    "Joint",
    "MatrixBlock",
    "MatrixUse",
    "NormalBlock",
    "NormalUse",
    "Params",
    "PriorUnbounded",
    "Rates",
    "Refused",
    "Selected",
    "Statistics",
    "Whole",
    "pool",
    "select",
    "used_charts",
]
