"""EM derived by hand, in NumPy alone: an oracle that shares no code with the rest of the package.

Each function runs exact EM for one model whose M-step has a textbook formula and returns the whole parameter path, the
start included, so that another implementation can be compared with it iterate by iterate.
"""

from .counts import bernoulli_mixture, coin_mixture, poisson_mixture
from .factors import factor_analysis
from .gaussian import gaussian_mixture
from .hmm import poisson_hmm
from .intercept import random_intercept
from .latent_path import LatentPath
from .level import local_level
from .linkage import genetic_linkage
from .normal import normal_mixture
from .path import ParameterPath

__all__ = [
    "LatentPath",
    "ParameterPath",
    "bernoulli_mixture",
    "coin_mixture",
    "factor_analysis",
    "gaussian_mixture",
    "genetic_linkage",
    "local_level",
    "normal_mixture",
    "poisson_hmm",
    "poisson_mixture",
    "random_intercept",
]
