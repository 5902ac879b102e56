"""Hills to climb that are plain functions."""

from collections.abc import Callable

from oracles.engines import laid_out
from torch import Tensor

from em_pyro.m_step.ascent.hill import Hill
from em_pyro.program.coordinates import Coordinates


def hill_on(f: Callable[[Tensor], Tensor], start: Tensor) -> Hill:
    """A hill that is a function of one real parameter of the engine of some program."""
    engine = laid_out("gaussian_mixture").compiled
    return Hill(engine, {"loc": start}, Coordinates(engine.program, ("loc",)), start, lambda values: f(values["loc"]))
