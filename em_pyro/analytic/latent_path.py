"""The record of a hand-derived EM whose latents are continuous: parameters, log-likelihoods, and the last posterior."""

from dataclasses import dataclass
from typing import NamedTuple

from .arguments import Array
from .path import Params


class Moments(NamedTuple):
    """The first two moments of latents given the data, with the dimensions of whatever has latents of its own first."""

    means: Array
    covariances: Array


@dataclass(frozen=True)
class LatentPath:
    """The whole path of an EM run of `steps` steps.

    Attributes:
        params: the path of each parameter by name, shape `(steps + 1, ...)`; entry 0 is the start.
        log_likelihood: log evidence of the data at each of these parameters, shape `(steps + 1,)`.
        latents: means and covariances of the latents given the data, at the last parameters.
    """

    params: Params
    log_likelihood: Array
    latents: Moments

    def at(self, step: int) -> Params:
        """Return the parameters after `step` steps: 0 is the start, -1 the end."""
        return {name: values[step] for name, values in self.params.items()}
