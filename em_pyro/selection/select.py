"""How many components, and of which shape: a family of models, each fitted from split and from random starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from numbers import Integral
from typing import Any

import pyro

from ..after.fit import Fit
from ..em import EM
from ..errors import EMError, ParameterError
from ..fit.endings import BAD
from ..fit.problem import prepare
from ..fit.starting.starts import starting_points
from ..options import planning
from ..program.devices import beside
from ..program.handlers import alone
from .checkpoints import asked, names_of, of_fit
from .health import narrowest_width, smallest_share
from .passed import check_known
from .progress import followed
from .selection import Candidate, Criterion, Selection, checked, fitted
from .split import split_starts

FAULTS = (EMError, IndexError, RuntimeError, ValueError)
"""What a model may raise for one value, and run with others."""


@alone()
def select(
    model_of: Callable[[Any], Any],
    values: Iterable[Any] | Mapping[Any, Any],
    *args: Any,
    criterion: Criterion = "bic",
    starts: int = 10,
    seed: int = 0,
    progress: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Selection:
    """Fit a model for every value, and compare the fits: `select(lambda K: partial(full, K=K), range(1, 9), x)`.

    A model starts from the user's own values and from random ones, as `EM` does with so many `starts`, and from the
    fits before it of the same variant that have fewer of something (components, states, factors): with every state of
    the largest of these split in two. So give numbers in increasing order: then the likelihood of nested models does
    not fall.

    A model that raises an error, of data or of its own, is a row of the table that says so. It is never the best, nor
    is a fit that ended at no maximum. The param store is neither read nor left changed.

    With `checkpoint="fits.pt"` every fit has a file of its own beside it, named by value and variant: `fits-2.pt`,
    `fits-2-EEE.pt`, and `fits-2-split.pt` for that of split starts. A value that is no number and no word is named by
    its place. A call after the process was killed goes on from there.

    Args:
        model_of: takes a value and returns a model; or a dict of models by name, variants of one value.
        values: numbers of components, say; or a dict of what `model_of` takes, by the names to list.
        args: go to every model.
        criterion: smaller is better: "aic", "bic", "sabic", "icl", or a function of a `Fit`.
        starts: of each model, besides the split ones; the first is the user's own.
        seed: of random starts.
        progress: show a progress bar.
        model_kwargs: go to every model by name.
        options: of `EM`.

    Raises:
        ParameterError: an option does not fit, or there are no values.
        EMError: of the first model, if none can be fitted.
    """
    criterion, kwargs = checked(criterion), dict(model_kwargs or {})
    _check(model_of, values, starts)
    check_known("select", options)
    checkpoint, options = asked(options)
    made = list(_models(model_of, values))
    if not made:
        raise ParameterError("select: expected at least one value and a model of it, got none. Pass range(1, 5), say.")
    found, errors = list[Candidate](), list[Exception]()
    names = names_of([(value, variant) for value, variant, _ in made])
    for place, (value, variant, model) in enumerate(followed(made, "select", "models", shown=progress)):
        em = EM(model, seed=seed, starts=int(starts), checkpoint=of_fit(checkpoint, names[place]), **options)
        try:
            fit = grown_fit(em, fitted(found, variant), args, kwargs)
            found.append(_candidate(value, variant, fit))
        except FAULTS as error:
            errors.append(error)
            found.append(Candidate(value, variant, failure=f"{type(error).__name__}: {error}"))
    if len(errors) == len(found):
        raise errors[0]
    return Selection(tuple(found), criterion)


def _check(model_of: Any, values: Any, starts: Any) -> None:
    """Refuse what is no number of starts, no function, and nothing to go through.

    Raises:
        ParameterError: naming the argument.
    """
    if not isinstance(starts, Integral) or isinstance(starts, bool) or starts < 1:
        raise ParameterError(f"select: expected starts to be a number of at least one, got {starts!r}.")
    if not callable(model_of):
        raise ParameterError(
            f"select: expected model_of to be a function from a value to a model, as lambda K: partial(model, K=K), "
            f"got {type(model_of).__name__}."
        )
    if not isinstance(values, Iterable):
        raise ParameterError(f"select: expected values to go through, got {values!r}. Pass range(1, 5), say.")


def grown_fit(em: EM, smaller: Sequence[Fit], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Fit:
    """Fit from the starts of `em`, a number of them, and from the first of `smaller` that has fewer of something.

    A start that has the likelihood of the smaller fit is a saddle, which is left at the end only: it goes there before
    starts are compared. The param store is set aside.
    """
    with pyro.get_param_store().scope():
        return _grown_fit(em, smaller, args, kwargs)


def _grown_fit(em: EM, smaller: Sequence[Fit], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Fit:
    for fit in smaller:
        problem = prepare(em.model, args, kwargs, em.m_step, **planning(em))
        with beside(problem.program.device):
            nested, apart = split_starts(fit.params, problem, em.seed)
            drawn = starting_points(problem, em.starts, em.seed) if nested or apart else []
        if nested:
            em.starts, kept = nested, em.checkpoint
            em.checkpoint = of_fit(kept, "split")
            first = em.fit(*args, **kwargs)
            em.checkpoint = kept
            nested = nested if first.outcome in BAD else [first.params]
        if drawn:
            em.starts = [*drawn, *nested, *apart]
            break
    return em.fit(*args, **kwargs)


def _models(model_of: Callable[[Any], Any], values: Any) -> Iterable[tuple[Any, str | None, Callable[..., Any]]]:
    """Yield value, variant and model, in order."""
    pairs = values.items() if isinstance(values, Mapping) else ((value, value) for value in values)
    for label, value in pairs:
        try:
            made = model_of(value)
        except TypeError as error:  # a model itself, which takes data
            raise ParameterError(
                f"select: expected model_of({value!r}) to return a model, got TypeError: {error}. Pass a function of "
                f"the value: lambda K: partial(model, K=K)."
            ) from error
        variants: Mapping[Any, Any] = made if isinstance(made, Mapping) else {None: made}
        for name, model in variants.items():
            if not callable(model):
                got = f"got {type(model).__name__}"
                raise ParameterError(
                    f"select: expected model_of({value!r}) to return a model or a dict of models, {got}."
                )
            yield label, name, model


def _candidate(value: Any, variant: str | None, fit: Fit) -> Candidate:
    """Judge a fit; its posterior is that of a copy, and not kept."""
    width, share = narrowest_width(fit._alive(), fit.params), smallest_share(copy(fit).posterior)
    return Candidate(value, variant, fit, fit.criteria(), share, width)
