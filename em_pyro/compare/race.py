"""Run the race: same model, same data, same starts, same objective, each contender on its own clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from pyro.optim import Adam  # type: ignore[attr-defined]  # made when pyro.optim is imported
from torch import Tensor

from ..em import EM
from ..errors import EMError, ParameterError
from ..fit.problem import Problem, prepare
from ..fit.starting.starts import need_parameters, starting_points
from ..options import planning
from ..program.devices import untouched_generators
from .analytic import agreement
from .arena import arena
from .contenders import Contender, em, lbfgs, svi, svi_map
from .exact import Ours, run_em, run_lbfgs
from .held_out import HeldOut
from .lane import Clock, Lane
from .report import Race
from .stochastic import NotAble, run_svi
from .verdict import judged, settle

Model = Callable[..., Any]
Starts = int | Mapping[str, Any] | Sequence[Mapping[str, Any]]


def compare(
    model: Model,
    *,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    contenders: Mapping[str, Contender] | None = None,
    starts: Starts = 1,
    budget_seconds: float = 10.0,
    max_steps: int = 1_000_000,
    seed: int = 0,
    prior_density: str = "constrained",
    continuous: Mapping[str, str] | None = None,
    held_out: tuple[Any, ...] | None = None,
    analytic: Callable[[Mapping[str, Tensor], int], Any] | None = None,
    echo: Callable[[str], Any] = print,
) -> Race:
    """Race several ways to fit one model from the same starts, and measure them against the best objective known.

    It leaves the param store, modules and generators as they were, and collects a contender's warnings into its lanes.

    Args:
        model: a Pyro model.
        args: its positional arguments.
        kwargs: its keyword arguments.
        contenders: by the name that the table and the figure give them; None are EM, plain and accelerated, SVI with
            Adam at two rates, and L-BFGS.
        starts: how many (0: the user's own values; more: random ones), or a dict, or a list of dicts, as in `EM`.
        budget_seconds: for each contender and start; a step that is running is finished.
        max_steps: passes over the data for each contender and start.
        seed: of random starts and of guides that draw.
        prior_density: as in `EM`, of the objective that all contenders ascend.
        continuous: as in `EM`.
        held_out: arguments with other data: adds a column of log predictive density. Full Bayes needs it.
        analytic: an independent EM: from `(start, steps)` to its objectives, or a record with `log_likelihood` and
            perhaps `params` (as those of `em_pyro.analytic`), each of `steps + 1` entries.
        echo: what is done with the line that bounds the time.

    Raises:
        ParameterError: an option does not fit.
        EMError: exact EM cannot treat the model, or the data cannot be used.
    """
    _check(contenders, held_out, budget_seconds, max_steps)
    with untouched_generators():
        density: dict[str, Any] = {"prior_density": prior_density, "continuous": continuous}
        referee, inner = EM(model, starts=starts, seed=seed, **density), dict(kwargs or {})
        here = prepare(model, args, inner, {}, **planning(referee))
        need_parameters(here)
        field = field_for(here) if contenders is None else contenders
        points = starting_points(here, referee.starts, referee.seed)
        echo(_bound(len(field), len(points), budget_seconds))
        unseen, lanes = None if held_out is None else HeldOut(here, held_out, inner), list[Lane]()
        for name, who in field.items():
            own = Ours(EM(model, **density, **who.options), here) if who.kind == "em" else None
            run = partial(_lane, here, own, name, who, seed=seed, unseen=unseen)
            lanes += [run(k, _copied(start), Clock(budget_seconds, max_steps)) for k, start in enumerate(points)]
        lanes = [_held_out(lane, unseen) for lane in judged(here, lanes)]
        best = settle(here, lanes, budget_seconds)
        agreed = agreement(here, points[0], analytic) if analytic is not None else ""
    told = budget_seconds, torch.get_num_threads(), _dtypes(here), agreed, here.plan.seconds, prior_density
    return Race(tuple(field), tuple(lanes), best, len(points), *told)


def field_for(here: Problem) -> dict[str, Contender]:
    """Return those who race where nobody is named; on a model with priors SVI climbs to their modes."""
    descend = svi_map if any(p.kind == "prior" for p in here.program.parameters.values()) else svi
    return {
        "EM": em(acceleration=None),
        "EM accelerated": em(),
        "SVI Adam 0.01": descend(Adam({"lr": 0.01})),
        "SVI Adam 0.1": descend(Adam({"lr": 0.1})),
        "L-BFGS": lbfgs(),
    }


def _copied(start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in start.items()}


def _dtypes(here: Problem) -> str:
    """Those of the parameters."""
    return ", ".join(sorted({str(p.initial.dtype).removeprefix("torch.") for p in here.program.parameters.values()}))


def _held_out(lane: Lane, unseen: HeldOut | None) -> Lane:
    """The lane with the log predictive density at its end, if held-out data were given and it has one."""
    if unseen is None or not (lane.shares_objective and lane.points):
        return lane
    return replace(lane, held_out=unseen.at(lane.params))


def _lane(
    here: Problem,
    own: Ours | None,
    name: str,
    who: Contender,
    index: int,
    start: dict[str, Tensor],
    clock: Clock,
    *,
    seed: int,
    unseen: HeldOut | None,
) -> Lane:
    """Run one contender from one start; one that cannot run this model says so, in its own words."""
    said: list[str] = []
    try:
        if own is not None:
            with arena(here, start, seed + index) as said:
                lane = run_em(own, name, index, start, clock)
        elif who.kind == "lbfgs":
            with arena(here, start, seed + index) as said:
                lane = run_lbfgs(here, name, who, index, start, clock)
        else:
            score = None if unseen is None else lambda draw: unseen.average(draw, who.options.get("draws", 1))
            lane = run_svi(here, name, who, index, start, clock, seed + index, score)
    except NotAble as reason:
        return _unable(name, who, index, str(reason))
    except Exception as error:  # noqa: BLE001 - whatever Pyro says of a model that it cannot treat is the finding
        if own is not None and isinstance(error, ParameterError):
            raise
        kind = "" if isinstance(error, EMError) else f"{type(error).__name__}: "
        return _unable(name, who, index, f"{kind}{error}")
    return replace(lane, message="; ".join(t for t in (lane.message, *said) if t)) if said else lane


def _unable(name: str, who: Contender, index: int, why: str) -> Lane:
    return Lane(name, index, (), ending="not able", message=why, shares_objective=who.shares_objective)


def _bound(contenders: int, starts: int, budget: float) -> str:
    total = (contenders * starts + 1) * budget
    return (
        f"Race: {contenders} contender{'s' * (contenders > 1)} x {starts} start{'s' * (starts > 1)} x {budget:g} s, "
        f"and {budget:g} s to polish the best: at most {total:g} s ({total / 60:.1f} min), plus set-up."
    )


def race(
    model: Model,
    *args: Any,
    contenders: Mapping[str, Contender] | None = None,
    starts: Starts = 5,
    budget_seconds: float = 2.0,
    **options: Any,
) -> Race:
    """Race EM against SVI and L-BFGS on a model and its arguments, and print who came how close, in which time.

    Args:
        model: a Pyro model.
        args: its positional arguments.
        contenders: by name; None are those of `compare`.
        starts: how many, or values, as in `EM`.
        budget_seconds: for each contender and start.
        options: the others of `em_pyro.compare.compare`, `kwargs` of the model among them.

    Raises:
        ParameterError: an option does not fit.
        EMError: exact EM cannot treat the model, or the data cannot be used.
    """
    both: dict[str, Any] = {"starts": starts, "budget_seconds": budget_seconds}
    return compare(model, args=args, contenders=contenders, **both, **options)


def _check(contenders: Mapping[str, Contender] | None, held_out: Any, budget: float, max_steps: int) -> None:
    if contenders is not None and not contenders:
        raise ParameterError("compare: expected at least one contender, got none.")
    for name, who in (contenders or {}).items():
        if not isinstance(who, Contender):
            raise ParameterError(
                f'compare: expected contender "{name}" to be made by em, svi, svi_map, svi_bayes or lbfgs, got '
                f"{type(who).__name__}."
            )
        if not who.shares_objective and held_out is None:
            raise ParameterError(
                f'compare: expected held_out= for contender "{name}", whose objective is not that of the others, got '
                f"none. Pass the model's arguments with data that were held out."
            )
    if held_out is not None and not isinstance(held_out, tuple):
        raise ParameterError(f"compare: expected held_out to be a tuple of arguments, got {type(held_out).__name__}.")
    if not budget > 0 or max_steps < 1:
        raise ParameterError(
            f"compare: expected a budget above 0 s and max_steps of at least 1, got {budget} and {max_steps}."
        )
