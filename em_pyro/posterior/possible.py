"""Whether the data are possible under the model at given parameters, and which row is not."""

from __future__ import annotations

import torch

from ..e_step.engine import Engine
from ..errors import DataError, ObjectiveError
from ..program.data.supports import broken, unlawful
from ..program.named import Params, unwrap
from ..program.site import Site, of_rows
from ..program.unroll import user_site
from .posterior import Posterior, posterior

IMPOSSIBLE = -1e29  # of an objective: no row of any data has so low a density, and `reading` writes -1e30 for log 0


def check_possible(engine: Engine, params: Params, objective: float) -> None:
    """Refuse `params` from which no EM step is defined, by the `objective` there.

    Raises:
        DataError: some row is impossible under every state.
        ObjectiveError: the objective is not finite for another reason.
    """
    if is_possible(objective):
        return
    if not objective <= IMPOSSIBLE:  # a location that overflows leaves a number beyond
        raise _not_finite(engine, params, objective)
    law, runs = posterior(engine, params), engine.recognition.runs[0]
    for plate in sorted(engine.program.plates, key=lambda p: -engine.program.plates[p]):
        try:
            rows = law.log_evidence_by(plate)
        except ValueError:
            continue
        bad = rows <= IMPOSSIBLE
        if bool(bad.any()):
            sites = [n for n, f in engine.factors.items() if plate in f.plates and n not in engine.program.latents]
            observed = [n for n in sites if plate in runs[n].plates] or [
                n for n, s in runs.items() if s.role == "observed" and plate in s.plates
            ]
            raise DataError(
                f'Site "{(observed or ["?"])[0]}": expected every row to be possible under some state, got a row '
                f'of plate "{plate}" that is impossible, at index {int(bad.nonzero()[0])}. Remove it, widen the '
                f"model, or take other values of its parameters ({_names(params)})."
            )
    observed = [n for n, s in runs.items() if s.role == "observed"]
    raise DataError(
        f'Site "{observed[0]}": expected data that is possible under the model, got an impossible observation '
        f"(log evidence {objective:.3g}). Check structural zeros and the start."
    )


def _not_finite(engine: Engine, params: Params, objective: float) -> DataError | ObjectiveError:
    """Return the error of an objective that is no number, or infinite: a row, or the start, is to blame."""
    with torch.no_grad():
        here = engine.program.run(params)
    for site in here.values():
        if said := _gap(site):
            return DataError(
                f"{said}. Look at what that row brings, as covariates, and at the start ({_names(params)})."
            )
    wrong = [f' ("{name}": {said})' for name, site in here.items() if (said := unlawful(site.fn))]
    return ObjectiveError(
        f"Start: expected a finite objective, got {objective}{''.join(wrong[:1])}. Check the starting values "
        f"({_names(params)}) and the scale of the data"
        + (", and give parameters constraints (constraints.positive, say)." if wrong else ".")
    )


def _gap(site: Site) -> str:
    """Say in which row an argument is no number, if it is one in others: parameters have none of their own."""
    for name, _, argument, _ in broken(site.fn):
        event = argument.dim() - len(unwrap(site.fn).base.batch_shape)
        missing = argument.isnan().flatten(-event).any(-1) if event else argument.isnan()
        cells = [dim for dim in range(-missing.dim(), 0) if not of_rows(site, dim)]
        rows = missing.any(dim=cells) if cells else missing
        if bool(rows.any()) and not bool(rows.all()):
            law, row = type(unwrap(site.fn).base).__name__, tuple(rows.nonzero()[0].tolist())
            return (
                f'Site "{user_site(site.name)}": expected {name} of {law} to be a number in every row, got nan at '
                f"index {row}"
            )
    return ""


def _names(params: Params) -> str:
    return ", ".join(sorted(params))


def is_possible(objective: float) -> bool:
    """Tell whether an `objective` is that of parameters from which an EM step is defined."""
    return IMPOSSIBLE < objective < -IMPOSSIBLE


def possible_posterior(engine: Engine, params: Params) -> Posterior:
    """Return the posterior at `params`.

    Raises:
        DataError: some row is impossible under every state, so that it has none.
    """
    law = posterior(engine, params)
    check_possible(engine, {n: v.double() for n, v in params.items()}, law.log_evidence)
    return law
