"""A run of the model that draws its data: parameters and sites with a prior stay where they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine import condition
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Distribution

from ...errors import DataError, ModelError
from ..devices import draw, seed_generators, visiting
from ..handlers import LABELS, is_subsample, name_of, quiet, untouched_store
from ..masks import seen_values
from ..named import Params, unwrap
from ..program import Program
from ..site import Site
from ..unroll import unroll
from .passed import observed, weights_of


def redrawn(program: Program, values: Params, seed: int) -> dict[str, Tensor]:
    """Run the model once, as it is, and draw what it observes; its latents are drawn too.

    Args:
        program: with the arguments, from which it takes plates, covariates, masks and labels.
        values: of all parameters, in their dtypes: sites with a prior stay where they are.
        seed: of the draws; no global generator moves.

    Returns:
        The observed sites by the user's names, in the order sampled, each in the dtype of what was observed, where that
        holds it. Entries under a mask keep what stands there.

    Raises:
        ModelError: a site cannot be drawn: it has row weights, no draws, or is a factor of latents or rows.
    """
    return _run(program, values, seed).drawn


def observed_values(program: Program, values: Params) -> dict[str, Tensor]:
    """Return what `redrawn` would draw anew, as the arguments have it.

    Raises:
        ModelError: a site cannot be drawn.
        DataError: the arguments give a site no data.
    """
    run = _run(program, values, 0)
    for name in run.lacking:
        raise DataError(f'Site "{name}": expected data, got None. Pass what was observed.')
    return run.was


def with_data(program: Program, values: Params) -> Program:
    """Return the program with drawn data at those of its observed sites to which its arguments give none.

    Raises:
        ModelError: a site cannot be drawn.
    """
    run = _run(program, values, 0)
    return replace(program, model=condition(program.model, data=run.lacking)) if run.lacking else program


def _run(program: Program, values: Params, seed: int) -> _Redraw:
    handler = _Redraw(program, values)
    with torch.no_grad(), quiet(), untouched_store(), program.given(values), visiting(), handler:
        seed_generators(seed)
        program.model(*program.args, **program.kwargs)
    if handler.factors:
        with torch.no_grad():
            sites = program.run(values)
        if bad := [name for name in handler.factors if sites[name].log_prob().names]:
            raise ModelError(
                f'Site "{bad[0]}": expected a distribution to draw data from, got pyro.factor with a term for each row '
                f"or state: no draw of the model has that density. Write it as pyro.sample(..., obs=...)."
            )
    return handler


class _Redraw(Messenger):
    """Give parameters their values and draw observed sites; labels of latents stay."""

    def __init__(self, program: Program, values: Params) -> None:
        super().__init__()
        self.program, self.values = program, values
        self.drawn: dict[str, Tensor] = {}
        self.was: dict[str, Tensor] = {}
        self.factors: list[str] = []
        self.lacking: dict[str, Tensor] = {}  # of them what is observed in the fit, and has no value here

    def _pyro_param(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"], msg["done"] = self.program.handed_out(msg["name"], self.values), True

    def _pyro_sample(self, msg: Any) -> None:
        if is_subsample(msg) or msg["infer"].get("_deterministic"):
            return
        name = name_of(msg)
        if not msg["is_observed"]:
            if name in self.values:
                msg["value"], msg["done"] = self.values[name], True
            return
        if name.endswith(LABELS):
            return
        if isinstance(unwrap(msg["fn"]).base, dist.Unit):
            self.factors.append(name)
            return
        msg["value"] = self.was[name] = observed(name, msg["value"])
        msg["value"], msg["done"] = _drawn(_site(name, msg)), True

    def _pyro_post_sample(self, msg: Any) -> None:
        """Keep what was drawn; what is observed in the fit, and is not now, Pyro has drawn itself."""
        name, program = msg["name"], self.program
        known = program.latents.keys() | self.values.keys() | program.integrated.keys()
        if name in program.upstream and name not in known and not isinstance(unwrap(msg["fn"]).base, dist.Unit):
            self.drawn[name] = msg["value"]
            self.lacking |= {} if msg["is_observed"] else {name: msg["value"]}


def _site(name: str, msg: Any) -> Site:
    """Return an observed statement of a run in which latents have one value each."""
    plates = {frame.dim: frame.name for frame in msg["cond_indep_stack"] if frame.vectorized}
    mask = None if msg["mask"] is None else torch.as_tensor(msg["mask"])
    names = tuple(plates[dim] for dim in sorted(plates))
    return Site(name, "observed", msg["fn"], msg["value"], names, plates, weights_of(msg["scale"]), mask)


def _drawn(site: Site) -> Tensor:
    """Draw the value of a site where it is seen."""
    if isinstance(site.scale, Tensor) and bool((site.scale != 1).any()):
        weights = site.scale.flatten()
        row = int((weights != 1).nonzero()[0])
        raise ModelError(
            f'Site "{site.name}": expected rows that count once, got one of weight {float(weights[row]):g} '
            f"(poutine.scale, index {row}). Rows are drawn one by one: pass each as often as it counts, "
            f"x.repeat_interleave(counts, 0), and leave poutine.scale out."
        )
    try:
        found = _of(site.fn, site.value)
    except NotImplementedError as error:
        raise ModelError(
            f'Site "{site.name}": expected a distribution that can be drawn from, got '
            f"{type(unwrap(site.fn).base).__name__}, which has no draws. Give it a sample method."
        ) from error
    was = site.value
    if was.is_floating_point() or torch.equal(found, found.round()):
        found = found.to(was.dtype)
    seen = seen_values(unroll({site.name: site})[site.name])
    if isinstance(unwrap(site.fn).base, dist.DiscreteHMM):  # taken apart it has a dimension for the states
        seen = seen.squeeze(-1 - unwrap(site.fn).base.observation_dist.event_dim)  # type: ignore[attr-defined]
    return found if bool(seen.all()) else torch.where(seen, found, was)


def _of(fn: Distribution, value: Tensor) -> Tensor:
    """Draw from a distribution; from a chain of any length as many steps as were observed."""
    base = unwrap(fn).base
    if not isinstance(base, dist.hmm.HiddenMarkovModel) or base.duration is not None:
        return draw(fn)
    base._duration = value.shape[value.dim() - fn.event_dim]  # type: ignore[attr-defined]
    try:
        return draw(fn)
    finally:
        base._duration = None
