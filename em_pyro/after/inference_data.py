"""A fit as what ArviZ takes, for its plots, its summaries and its files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import files
from ..errors import ModelError, ParameterError, library
from ..posterior.inside import plates_of
from ..posterior.posterior import Posterior
from ..program.data.columns import index_of
from ..program.handlers import LABELS, alone
from ..program.masks import seen_values
from ..program.named import Named, squeeze
from ..program.site import Site
from ..program.unroll import unroll
from .fit import Fit

if TYPE_CHECKING:
    from arviz import InferenceData
    from xarray import DataTree

SAMPLE = ("chain", "draw")


class Variable(NamedTuple):
    """An array with a name for each dimension that is no event's; those of events come after."""

    values: Tensor
    dims: tuple[str, ...]

    def named(self, name: str) -> tuple[list[str], Any]:
        """Name the dimensions of events too, as ArviZ does, and take a copy."""
        events = [f"{name}_dim_{i}" for i in range(self.values.dim() - len(self.dims))]
        return [*self.dims, *events], self.values.detach().cpu().numpy().copy()


def to_inference_data(
    fit: Fit, *, draws: int = 1000, seed: int = 0, coords: Mapping[str, Any] | None = None
) -> InferenceData | DataTree:
    """Return a fit for ArviZ: draws of its latents, fitted values, data and log evidence.

    It is what the ArviZ that is installed takes: an `xarray.DataTree` from version 1 on, before it an `InferenceData`.
    Both have the same groups, under the same names. Plates are dimensions, under their own names. Groups:

    - `posterior`: draws of all latents from their joint posterior at the fitted values, in one chain. They are
      independent and exact, so no diagnosis of convergence has anything to say of them.
    - `constant_data`: the fitted values, of sites with a prior too. They are points, at which the draws are made.
    - `observed_data`: the observed sites. Entries under a mask are NaN.
    - `log_likelihood`: for each plate whose rows are independent `log_evidence_<plate>`, the log evidence of every row,
      its latents summed out. It is the same in all draws, and has no dimensions for them.

    Attributes of every group name library and version, those of `posterior` also outcome, log-likelihood and gap.

    Args:
        fit: with its model and data.
        draws: how many.
        seed: of the draws; no global generator moves.
        coords: labels of the rows of a plate by its name; where none are given, the index of the frame that the model
            was given, or numbers.

    Raises:
        ParameterError: this is no `Fit`, or one from a file, without model and data; `draws` is no number of at least
            one, `coords` has a name that is no plate, or labels that are not as many as its rows.
        ModelError: a plate has the name of a dimension of ArviZ's.
        DataError: the data, or what else the model sees, are no longer those of the fit.
        ModuleNotFoundError: ArviZ is not installed.
    """
    if not isinstance(draws, Integral) or isinstance(draws, bool) or draws < 1:
        raise ParameterError(f"to_inference_data: expected draws to be a number of at least one, got {draws!r}.")
    if not isinstance(fit, Fit):
        raise ParameterError(f"to_inference_data: expected a Fit, as EM.fit returns it, got {type(fit).__name__}.")
    arviz, xarray = (library(name, "to_inference_data", "'em-pyro[arviz]'") for name in ("arviz", "xarray"))
    law = fit.posterior
    with alone(), torch.no_grad():
        groups = {
            "posterior": dict(_latents(law, int(draws), seed)),
            "log_likelihood": dict(_evidence(law)),
            "observed_data": dict(_observed(law)),
            "constant_data": {name: Variable(value, ()) for name, value in fit.params.items()},
        }
    labels = _labels(law, coords or {})
    ended = {"outcome": fit.outcome, "log_likelihood": fit.log_likelihood, "objective": fit.objective, "gap": fit.gap}
    made = {}
    for group, variables in groups.items():
        if variables:
            named = {name: variable.named(name) for name, variable in variables.items()}
            data = xarray.Dataset(named, attrs=_library())
            rows = {dim: labels.get(dim, np.arange(size)) for dim, size in data.sizes.items()}
            made[group] = data.assign_coords(rows)
    if "posterior" in made:
        made["posterior"].attrs |= ended
    before = int(arviz.__version__.split(".")[0]) < 1
    return arviz.InferenceData(**made) if before else xarray.DataTree.from_dict(made)


def _library() -> dict[str, str]:
    return {"inference_library": "em_pyro", "inference_library_version": files.version()}


def _latents(law: Posterior, draws: int, seed: int) -> Iterator[tuple[str, Variable]]:
    """Yield draws of every latent: one chain, the draws, its plates, and its event."""
    program, run = law.engine.program, law.engine.recognition.runs[0]
    for name, drawn in law.sample(draws, seed=seed).items():
        plates, last = plates_of(law.engine, name), 1  # of what a DiscreteHMM hides, its steps
        if name in program.latents:
            last = program.latents[name].support.dim() - 1
        elif name in program.integrated:
            last = _events(run[name])
        sizes = [program.plates[plate] for plate in plates]
        event = drawn.shape[drawn.dim() - last :]
        yield name, Variable(drawn.reshape((1, draws, *sizes, *event)), (*SAMPLE, *plates))


def _evidence(law: Posterior) -> Iterator[tuple[str, Variable]]:
    """Yield the log evidence of the rows of every plate whose rows are independent."""
    for plate in law.engine.program.plates:
        with contextlib.suppress(ParameterError):
            yield f"log_evidence_{plate}", Variable(law.log_evidence_by(plate), (plate,))


def _observed(law: Posterior) -> Iterator[tuple[str, Variable]]:
    """Yield what was observed, NaN where a mask leaves it out."""
    program = law.engine.program
    sites = unroll(law.engine.recognition.runs[0])
    for name, site in sites.items():
        if site.role != "observed" or name in program.integrated or name.endswith(LABELS):
            continue
        value, shown = site.value, seen_values(site)
        value = value if bool(shown.all()) else torch.where(shown, value.double(), torch.nan)
        laid = squeeze(value, site.dims, name, _events(site))
        others = tuple(n for n in laid.names if n not in site.plates)  # the steps of a DiscreteHMM
        laid = Named(laid.align((*site.plates, *others)), site.plates)
        sizes = [program.plates[plate] for plate in site.plates]
        yield name, Variable(laid.tensor.expand((*sizes, *laid.tensor.shape[len(sizes) :])), site.plates)


def _events(site: Site) -> int:
    return int(site.fn.event_dim)  # type: ignore[attr-defined]


def _labels(law: Posterior, coords: Mapping[str, Any]) -> dict[str, Any]:
    """Return labels of the rows of every plate.

    Raises:
        ParameterError: a name is no plate, or there are not as many labels as rows.
        ModelError: a plate has the name of a dimension of ArviZ's.
    """
    plates = law.engine.program.plates
    for name in set(SAMPLE) & set(plates):
        raise ModelError(f'Plate "{name}": expected another name, since ArviZ has dimensions {SAMPLE}. Rename it.')
    for name, values in coords.items():
        if name not in plates or len(values) != plates[name]:
            rows = f"{plates[name]} labels of its rows, got {len(values)}" if name in plates else "a name of a plate"
            raise ParameterError(
                f'to_inference_data: coords["{name}"]: expected {rows}. The plates are {dict(plates)}.'
            )
    own = {name: index_of(law.engine.program.passed, size) for name, size in plates.items()}
    flat = {name: index for name, index in own.items() if index is not None and index.nlevels == 1}
    return {name: np.asarray({**flat, **coords}.get(name, np.arange(size))) for name, size in plates.items()}
