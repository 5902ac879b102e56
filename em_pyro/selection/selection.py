"""Fits beside one another: the table of a sweep, and the best of them by a criterion."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import field, replace
from math import inf, isfinite, nan
from typing import Any

from ..after.criteria import NAMES, Criteria
from ..after.fit import Fit
from ..errors import EMError, ParameterError, library
from ..fit.endings import BAD
from ..records.frozen import frozen
from ..records.shown import Shown
from .health import NARROW

Criterion = str | Callable[[Fit], float]

COLUMNS = ("log-likelihood", "parameters", "AIC", "BIC", "ICL", "entropy", "smallest share", "narrowest", "outcome")


@frozen
class Candidate:
    """One fit of a sweep, or why there is none.

    Attributes:
        value: what its model was made of.
        variant: which of the models of this value; None where there is one.
        fit: nothing, if it failed.
        criteria: likewise.
        smallest_share: of the rows, that a state of a latent has.
        narrowest: standard deviation of the narrowest state beside that of all data, where it is worst; nan if no site
            has a scale.
        failure: the error in whose place this stands; empty if there is a fit.
    """

    value: Hashable
    variant: str | None
    fit: Fit | None = field(default=None, repr=False)
    criteria: Criteria | None = field(default=None, repr=False)
    smallest_share: float = nan
    narrowest: float = nan
    failure: str = ""

    @property
    def key(self) -> Hashable:
        """What the selection knows it by."""
        return self.value if self.variant is None else (self.value, self.variant)

    @property
    def outcome(self) -> str:
        """How the fit ended, or that there is none."""
        return "failed" if self.fit is None else self.fit.outcome

    @property
    def is_maximum(self) -> bool:
        """Whether there is a fit, and its ending is not one of those that are no maximum."""
        return self.fit is not None and self.fit.outcome not in BAD

    @property
    def is_sliver(self) -> bool:
        """Whether a state is so narrow that the maximum may be spurious."""
        return self.narrowest < NARROW

    def score(self, criterion: Criterion) -> float:
        """Return the criterion, infinite if this is no maximum."""
        if self.fit is None or self.criteria is None or not self.is_maximum:
            return inf
        found = getattr(self.criteria, criterion) if isinstance(criterion, str) else criterion(self.fit)
        try:
            number = float(found)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ParameterError(
                f"criterion: expected a function of a Fit that returns a number, got {type(found).__name__}. Return "
                f"one, as lambda fit: fit.bic does."
            ) from error
        return number if isfinite(number) else inf


@frozen
class Selection(Shown):
    """Fits by what their models were made of; `selection[k]` is one of them, and `print` shows all in a table.

    Attributes:
        candidates: in the order of the values.
        criterion: by which the best is chosen, smaller is better: "aic", "bic", "sabic", "icl", or a function of a fit.
    """

    candidates: tuple[Candidate, ...]
    criterion: Criterion = "bic"

    def __getitem__(self, key: Hashable) -> Fit:
        """Return the fit of a value, or of a (value, variant).

        Raises:
            KeyError: there is no such value.
            EMError: it could not be fitted.
        """
        for one in self.candidates:
            if one.key == key:
                if one.fit is None:
                    raise EMError(f"Selection[{key!r}]: expected a fit, got none: {one.failure}")
                return one.fit
        raise KeyError(f"{key!r}: expected one of {[one.key for one in self.candidates]}")

    def __len__(self) -> int:
        """Return the number of models."""
        return len(self.candidates)

    def __iter__(self) -> Iterator[Hashable]:
        """Go through what the models were made of, as the keys of a dict."""
        return iter(one.key for one in self.candidates)

    @property
    def best_value(self) -> Any:
        """What the best model was made of: a value, or a (value, variant).

        Raises:
            EMError: no fit ended at a maximum.
        """
        return self._best.key

    @property
    def best(self) -> Fit:
        """The fit of the smallest criterion, of those that ended at a maximum; of equals the first."""
        return self[self._best.key]

    @property
    def _best(self) -> Candidate:
        one = min(self.candidates, key=lambda one: one.score(self.criterion))
        if one.score(self.criterion) == inf:
            raise EMError("Selection: expected a fit that ended at a maximum, got none. Its table says how each ended.")
        return one

    def by(self, criterion: Criterion) -> Selection:
        """Return the same fits, of which the best is chosen by another criterion."""
        return replace(self, criterion=checked(criterion))

    def to_frame(self) -> Any:
        """Return the table as a pandas DataFrame, a row a model.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        pandas = library("pandas", "Selection.to_frame", "pandas")
        return pandas.DataFrame([_row(one, self.criterion) for one in self.candidates])

    def __str__(self) -> str:
        """Lay out the table; `<` marks the best, `!` a component that is narrow beside the data."""
        scores = [one.score(self.criterion) for one in self.candidates]
        best = scores.index(min(scores)) if min(scores) < inf else None
        varied = any(one.variant is not None for one in self.candidates)
        own = () if isinstance(self.criterion, str) and self.criterion in ("aic", "bic", "icl") else (self._name,)
        rows = [("", *(("variant",) if varied else ()), *COLUMNS[:5], *own, *COLUMNS[5:])]
        for k, one in enumerate(self.candidates):
            score = (_number(scores[k]),) if own else ()
            label = (str(one.value), *((one.variant or "",) if varied else ()))
            cells = _cells(one)
            rows.append((*label, *cells[:5], *score, *cells[5:-1], cells[-1] + ("  <" if k == best else "")))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        left = {len(widths) - 1, *((1,) if varied else ())}
        lines = [
            "  ".join(c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
            for row in rows
        ]
        return "\n".join([*(line.rstrip() for line in lines), *self._remarks(best)])

    @property
    def _name(self) -> str:
        return (
            self.criterion.upper() if isinstance(self.criterion, str) else getattr(self.criterion, "__name__", "score")
        )

    def _remarks(self, best: int | None) -> list[str]:
        """Say which is best, what is marked, and what failed."""
        said = ["no fit ended at a maximum"]
        if best is not None:
            said = [f"best by {self._name}: {_shown(self.candidates[best])}"]
        slivers = [_shown(one) for one in self.candidates if one.is_sliver]
        if slivers:
            said.append(
                f"! narrower than {NARROW:g} of the data in some direction, perhaps spurious: {', '.join(slivers)}"
            )
        return [*said, *(f"{_shown(one)} failed: {one.failure}" for one in self.candidates if one.failure)]


def checked(criterion: Any) -> Criterion:
    """Return a criterion.

    Raises:
        ParameterError: it is no name of one, and no function.
    """
    if callable(criterion) or (isinstance(criterion, str) and criterion in NAMES):
        return criterion  # type: ignore[no-any-return]
    names = ", ".join(f'"{name}"' for name in NAMES)
    raise ParameterError(f"select: expected criterion to be one of {names}, or a function of a fit, got {criterion!r}.")


def _cells(one: Candidate) -> tuple[str, ...]:
    """The columns of one model."""
    found = one.criteria
    if found is None:
        return (*[""] * (len(COLUMNS) - 1), one.outcome)
    numbers = [found.log_likelihood, found.aic, found.bic, found.icl, found.entropy]
    likelihood, aic, bic, icl, entropy = map(_number, numbers)
    narrow = "" if one.narrowest != one.narrowest else f"{one.narrowest:.3f}{'!' if one.is_sliver else ' '}"
    share = f"{one.smallest_share:.4f}"
    return likelihood, str(found.parameters), aic, bic, icl, entropy, share, narrow, one.outcome


def _row(one: Candidate, criterion: Criterion) -> dict[str, Any]:
    """One row of the frame."""
    row: dict[str, Any] = {"value": one.value, "variant": one.variant}
    found = one.criteria
    for name in ("log_likelihood", "parameters", "n", *NAMES, "entropy", "relative_entropy"):
        row[name] = None if found is None else getattr(found, name)
    if not isinstance(criterion, str):
        row["score"] = one.score(criterion)
    row |= {"smallest_share": one.smallest_share, "narrowest": one.narrowest, "sliver": one.is_sliver}
    return {**row, "outcome": one.outcome, "failure": one.failure}


def _number(value: float) -> str:
    return f"{value:.3f}" if isfinite(value) else str(value)


def _shown(one: Candidate) -> str:
    return f"{one.value}" if one.variant is None else f"{one.value} {one.variant}"


def fitted(candidates: Sequence[Candidate], variant: str | None) -> list[Fit]:
    """Return the fits of a variant that ended at a maximum, the last first."""
    return [
        one.fit for one in reversed(candidates) if one.variant == variant and one.is_maximum and one.fit is not None
    ]
