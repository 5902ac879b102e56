"""How well rows are predicted that a fit has not seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from numbers import Integral
from typing import Any

import pyro
import torch
from torch import Tensor

from ..em import EM
from ..errors import EMError, ParameterError
from ..fit.endings import BAD
from ..fit.problem import prepare
from ..fit.starting.starts import own_values
from ..options import planning
from ..program.devices import beside
from ..program.handlers import alone
from ..program.program import Program
from ..program.store import set_aside
from ..records.frozen import frozen
from ..records.shown import Shown
from .checkpoints import asked, of_fit
from .folds import Cut, check_cut
from .passed import check_known
from .progress import followed


@frozen
class CrossValidation(Shown):
    """Held-out log evidence: larger is better; `float(...)` is the total.

    Attributes:
        per_row: log evidence of every row under the fit of the others, times its weight, in the order of the data,
            shape `(rows,)`; its differences between two models are paired.
        fold: which fold each row was in, shape `(rows,)`.
        outcomes: how the fit of each fold ended.

    References:
        Smyth, P. (2000). Model selection for probabilistic clustering using cross-validated likelihood. Statistics and
        Computing 10, 63-72.
    """

    per_row: Tensor = field(repr=False)
    fold: Tensor = field(repr=False)
    outcomes: tuple[str, ...] = ()

    @property
    def total(self) -> float:
        """Log evidence of all rows, each under the fit of the folds that it is not in, in nats."""
        return float(self.per_row.sum())

    @property
    def per_fold(self) -> Tensor:
        """The same fold by fold, shape `(folds,)`."""
        return torch.zeros(len(self.outcomes), dtype=torch.float64).index_add(0, self.fold, self.per_row)

    def __float__(self) -> float:
        """Return the total."""
        return self.total

    def __str__(self) -> str:
        """One line, and another where fits ended at no maximum."""
        rows, folds = len(self.per_row), len(self.outcomes)
        said = f"held-out log evidence {self.total:.4f} of {rows} rows in {folds} folds ({self.total / rows:.4f} a row)"
        bad = [f"fold {i}: {outcome}" for i, outcome in enumerate(self.outcomes) if outcome in BAD]
        return "\n".join([said, *([f"fits that ended at no maximum: {', '.join(bad)}"] if bad else [])])


@alone()
def cross_validate(
    model: Callable[..., Any],
    *args: Any,
    plate: str,
    folds: int = 5,
    seed: int = 0,
    dims: Mapping[int | str, int | None] | None = None,
    progress: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> CrossValidation:
    """Fit a model to all folds but one, and ask the fit for the log evidence of that one; each in turn.

    Rows of a plate are dealt to folds by a random permutation, sizes differing by one at most. Every fit starts as one
    of all rows would in an empty param store: from initialisers, `starts` and the weights of modules, which are left as
    they were, as is the store; so nothing of a fit that has seen the held-out rows.

    An argument is cut along the dimension that is as long as the plate, those inside lists and dicts too; one without
    is passed whole. Before anything is fitted, rows are asked for the same densities as in the whole.

    With `checkpoint="fits.pt"` the fit of every fold has a file of its own beside it, `fits-fold-0.pt` and so on.
    Called again after a kill, it goes on from there.

    Args:
        model: a Pyro model.
        args: go to the model.
        plate: whose rows are held out; they have to be independent given the parameters.
        folds: how many; as many as rows is leave-one-out.
        seed: of the permutation, and of the fits.
        dims: the dimension of the rows of an argument, by its position or name, where two are as long as the plate;
            None passes it whole.
        progress: show a progress bar.
        model_kwargs: go to the model by name.
        options: of `EM`.

    Raises:
        ParameterError: no such plate; rows that no latent joins; folds that do not fit; or it is not clear which
            dimension has the rows. A fitted parameter whose shape the held-out rows do not allow.
        ModelError: rows say something else without the others.
        DataError: rows cannot be used.
    """
    check_known("cross_validate", options)
    kwargs = dict(model_kwargs or {})
    own = {"seed": seed, **options, "checkpoint": asked(options)[0]}
    em = EM(model, **own)
    with pyro.get_param_store().scope():
        whole = prepare(model, args, kwargs, em.m_step, **planning(em))
    program = whole.program
    cut = _cut(program.plates, plate, folds, (args, kwargs), dims or {})
    deal = torch.randperm(cut.rows, generator=torch.Generator().manual_seed(seed))
    parts = deal.tensor_split(int(folds))
    with beside(program.device), pyro.get_param_store().scope():
        for some in (parts[0], torch.cat(parts[1:])):
            check_cut(program, cut, own_values(whole), some)
    return _held_out(program, cut, parts, own, followed(range(len(parts)), "cross_validate", "folds", shown=progress))


def _held_out(
    program: Program, cut: Cut, parts: Sequence[Tensor], options: Mapping[str, Any], order: Iterable[int]
) -> CrossValidation:
    """Predict the rows of each part from all others."""
    per_row, fold = torch.zeros(cut.rows, dtype=torch.float64), torch.zeros(cut.rows, dtype=torch.long)
    outcomes = list[str]()
    args, kwargs = program.args, program.kwargs
    for i in order:
        others = torch.cat([part for k, part in enumerate(parts) if k != i]).sort().values
        own = {**options, "checkpoint": of_fit(options["checkpoint"], f"fold-{i}")}
        train, test = cut.some(args, kwargs, others), cut.some(args, kwargs, parts[i])
        try:
            with set_aside(program), pyro.get_param_store().scope():
                fit = EM(program.model, **own).fit(*train[0], **train[1])
                per_row[parts[i]] = fit.posterior_on(*test[0], **test[1]).log_evidence_by(cut.plate).cpu()
        except EMError as error:
            raise type(error)(f"cross_validate, fold {i} of {len(parts)}: {error}") from error
        fold[parts[i]] = i
        outcomes.append(fit.outcome)
    return CrossValidation(per_row, fold, tuple(outcomes))


def _cut(
    plates: Mapping[str, int],
    plate: str,
    folds: Any,
    passed: tuple[tuple[Any, ...], Mapping[str, Any]],
    dims: Mapping[int | str, int | None],
) -> Cut:
    """Return how arguments are cut, if the options fit.

    Raises:
        ParameterError: naming the option.
    """
    if plate not in plates:
        raise ParameterError(f'cross_validate: expected plate to be one of {sorted(plates)}, got "{plate}".')
    rows, (args, kwargs) = plates[plate], passed
    if not isinstance(folds, Integral) or isinstance(folds, bool) or not 2 <= int(folds) <= rows:
        raise ParameterError(
            f"cross_validate: expected folds to be a number from 2 to {rows}, the rows, got {folds!r}."
        )
    if not isinstance(dims, Mapping):
        raise ParameterError(f"cross_validate: expected dims to be a dict by argument, as {{0: 1}}, got {dims!r}.")
    known = [*range(len(args)), *kwargs]
    for key in dims:
        if key not in known:
            raise ParameterError(f"cross_validate: expected dims to name arguments, of {known}, got {key!r}.")
    return Cut(plate, rows, dims)
