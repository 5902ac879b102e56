"""What a fit is: its values, the path that led there and how it ended, kept with the program or without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import DataError, ParameterError
from ..fit.path import Acceleration
from ..fit.problem import Problem
from ..fit.starting.runs import Starts
from ..m_step.plan import Plan
from ..records.frozen import frozen
from ..records.shown import Shown
from .fitted import ended, shown
from .source import Source, source_of

if TYPE_CHECKING:
    from typing_extensions import Self


@frozen
class Record(Shown):
    """What there is to know of a fit; what is asked of it is `Fit`'s."""

    fitted: Mapping[str, Tensor]
    log_likelihood: float
    objective: float
    path: tuple[float, ...] = field(repr=False)
    num_steps: int
    outcome: str
    converged: bool
    gap: float
    starts: Starts = field(repr=False)
    plan: Plan = field(repr=False)
    notes: tuple[str, ...] = ()
    prepared: Problem | None = field(default=None, repr=False)
    acceleration: Acceleration | None = None
    switches: int = 0
    prior_density: str = "constrained"
    source: Source | None = field(default=None, repr=False)

    @property
    def params(self) -> dict[str, Tensor]:
        """Fitted constrained values by name, sites with a prior included, in the dtypes of the program: copies."""
        return {name: value.clone() for name, value in self.fitted.items()}

    def __copy__(self) -> Self:
        """Copy with the program and its data."""
        return replace(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy with the same program and data, which nobody writes to."""
        return replace(self, fitted=deepcopy(self.fitted, memo))

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the program and its data."""
        state = {k: v for k, v in self.__dict__.items() if k not in ("prepared", "posterior", "_served")}
        return {**state, "prepared": None, "source": self._told()}

    def _told(self) -> Source:
        """Say how the program was planned, without the program."""
        if self.prepared is not None:
            return source_of(self.prepared)
        return Source() if self.source is None else replace(self.source, model=None)

    def _on(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Problem:
        """Return the program that was fitted; of a file with its model alone, the one on these arguments."""
        if self.prepared is None and self.source is not None and self.source.model is not None:
            return self.source.planned(self.fitted, args, kwargs)
        return self._alive()

    def _alive(self) -> Problem:
        """Return the program and its data, if they are there."""
        if self.prepared is None:
            raise ParameterError(
                "Fit: expected the model and the data that were fitted, but this fit comes from a file, without them. "
                "Write it by fit.save(path), and read it by em_pyro.load(path, model, args=(...), kwargs={...})."
            )
        return self.prepared

    def _unchanged(self, asked: str, remedy: str, *, summed: bool = False) -> Problem:
        """Return the program and its data, if they are still those of the fit.

        Args:
            asked: what for.
            remedy: what to ask if they are not.
            summed: whether that is a sum over rows, for which batches are read once more.
        """
        here = self._alive()
        if not here.rows.whole and not (summed and here.rows.alone):
            where = "has read them in batches" if here.rows.alone else "was one of several processes"
            raise DataError(
                f"Fit.{asked}: expected all rows at hand, but this fit {where}. Ask Fit.posterior_on(...) of rows that "
                f"are, or fit all of them at once."
            )
        changed = here.change(*here.program.passed, run=True)
        if changed:
            raise DataError(
                f"Fit.{asked}: expected what was fitted, but since then {changed} has changed. Ask "
                f"Fit.{remedy} of the data as they are now."
            )
        return here

    def _head(self, values: Sequence[str]) -> list[str]:
        how = ended(self.outcome, self.num_steps, self.log_likelihood, self.objective, self.gap, self.prior_density)
        starts = [str(self.starts)] if len(self.starts) > 1 else []
        return [*how, *values, *starts, *([] if self.acceleration is None else [str(self.acceleration)])]

    def __str__(self) -> str:
        """Say how the fit ended, the fitted values and the notes, in plain text; `summary` has all entries."""
        return "\n".join([*self._head(shown(self.fitted)), *self.notes])
