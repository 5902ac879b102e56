"""The values from which the next step or fit of an `EM` begins."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from ...program.named import Params
from ...program.store import kept_on_error, write
from ..problem import Problem
from .starts import given_start, own_values, prior_start


class Current:
    """Values that the user gave, until a step or a fit has left others: params in the store, sites with a prior here.

    Attributes:
        starts: the option of `EM`.
        seed: of the draws of sites with a prior.
    """

    def __init__(self, starts: int | Mapping[str, Any] | Sequence[Mapping[str, Any]], seed: int) -> None:
        """Begin with what the user gave."""
        self.starts, self.seed = starts, seed
        self._sites: dict[str, Tensor] = {}  # current values of sites with a prior
        self._begun = False  # whether a step or a fit has left values, from which to go on

    def given(self) -> Mapping[str, Any]:
        """Values of start 0 that the user gave in place of the param store's."""
        if self._begun or isinstance(self.starts, int):
            return {}
        return self.starts if isinstance(self.starts, Mapping) else self.starts[0]

    def values(self, problem: Problem) -> dict[str, Tensor]:
        """Return the values from which the next step begins."""
        return given_start(problem.program, self.own(problem), self.given())

    def own(self, problem: Problem) -> dict[str, Tensor]:
        """Return the values of start 0, where none are given: the last ones of sites with a prior, if there are any."""
        values = own_values(problem)
        known = {n: v for n, v in self._sites.items() if n in values and v.shape == values[n].shape}
        if any(p.kind == "prior" and n not in known for n, p in problem.program.parameters.items()):
            values = prior_start(problem.of_all_rows, values, self.seed)
        return {**values, **known}

    def keep(self, problem: Problem, values: Params) -> None:
        """Leave values in the param store, and keep those of sites with a prior."""
        write(problem.program, values)
        priors = [n for n, p in problem.program.parameters.items() if p.kind == "prior"]
        self._sites = {n: values[n].detach().clone() for n in priors}
        self._begun = True

    def telling(self, problem: Problem, callback: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return the user's callback, before which the values of the step are left in the store."""

        def told(state: Any) -> Any:
            self.keep(problem, state.params)
            return callback(state)

        return told

    @contextlib.contextmanager
    def kept_on_error(self, problem: Problem) -> Iterator[None]:
        """Go on from where the last step or fit ended, if what is done within raises an error."""
        sites, begun = self._sites, self._begun
        try:
            with kept_on_error(problem.program):
                yield
        except Exception:
            self._sites, self._begun = sites, begun
            raise
