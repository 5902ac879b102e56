"""EM against SVI and direct ascent on the same Pyro model: one call, the same starts, the same objective."""

from .contenders import Contender, em, lbfgs, svi, svi_bayes, svi_map
from .lane import Lane, Point
from .race import compare, race
from .report import Race
from .verdict import Best

__all__ = [
    "Best",
    "Contender",
    "Lane",
    "Point",
    "Race",
    "compare",
    "em",
    "lbfgs",
    "race",
    "svi",
    "svi_bayes",
    "svi_map",
]
