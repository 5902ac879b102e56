"""Pictures of a fit: functions that draw into `ax`, or into a figure of their own, and return the axes.

matplotlib is imported when a function is called. Component `k` has the same colour in every picture, from the palette
of Okabe & Ito, which the common forms of colour blindness tell apart.

References:
    Okabe, M. and Ito, K. (2008). Color universal design: how to make figures and presentations that are friendly to
    colorblind people.
"""

from .canvas import COLOURS
from .coins import coin_weights
from .intervals import intervals
from .mixtures import ellipses, mixture_curves
from .paths import objective_path
from .selections import criteria
from .states import states

__all__ = [
    "COLOURS",
    "coin_weights",
    "criteria",
    "ellipses",
    "intervals",
    "mixture_curves",
    "objective_path",
    "states",
]
