"""The first run of a model: what does it sample, from what, under which plates, and what can be fitted?

Latents take one broadcast-size value, so that nothing of shape rows x states is built. Everything on which exact EM is
not defined is refused here, with the site and the remedy.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import torch
from pyro.poutine import block
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ..errors import DataError, ModelError
from .changes.fingerprint import held
from .continuous.local import check_chosen, further, is_discrete, local_continuous, normal_in_data, plates_of
from .continuous.moved import as_normal
from .continuous.standing import Drawn, standing
from .continuous.whole import taken_apart
from .data.passed import converted, first_that_runs, observed
from .data.shapes import mismatched
from .data.statements import check_law, check_support
from .handlers import (
    Indices,
    as_computed,
    handed_out,
    indices_of,
    is_given,
    is_subsample,
    name_of,
    no_empty_plate,
    quiet,
    refuse_part,
    states,
    support,
    untouched_store,
)
from .marks import Marked, marks_of
from .named import unwrap
from .program import Program
from .site import Latent, Parameter
from .stated import parameter_of, value_of_prior

# Up to this many latents each has a tensor dimension of its own. Beyond it, a second run tracks which latents each site
# depends on, and latents that never meet share a dimension; tensors have at most 64.
OWN_DIMENSION = 12

NO_WEIGHT = "Expected scale > 0 but got "  # Pyro's words of a poutine.scale that is a number


class _Survey(Messenger):
    def __init__(
        self,
        indices: Indices,
        drawn: Drawn,
        fitted: Mapping[str, Parameter] | None,
        integrated: Collection[str],
        *,
        provenance: bool,
    ) -> None:
        super().__init__()
        self.indices, self.drawn, self.fitted, self.provenance = indices, drawn, fitted, provenance
        self.integrated = frozenset(integrated)
        self.parameters: dict[str, Parameter] = {}
        self.messages: dict[str, Any] = {}
        self.upstream: dict[str, frozenset[str]] = {}
        self.registered: dict[str, tuple[Tensor, Any]] = {}

    def _pyro_param(self, msg: Any) -> None:
        name = msg["name"]
        if is_given(msg):  # a known number
            return
        if name not in self.parameters:
            self.parameters[name] = parameter_of(msg, self.fitted)
        if self.parameters[name].kind == "param":
            # A leaf with a gradient, so that a distribution that must be fixed (a quadrature) can tell that it is not.
            initial = self.parameters[name].initial
            value = initial.clone().requires_grad_(initial.is_floating_point())
            msg["value"], msg["done"] = handed_out(value, self.parameters[name].constraint), True

    def _pyro_sample(self, msg: Any) -> None:
        if is_subsample(msg) and msg["value"] is None:
            msg["value"], msg["done"] = indices_of(msg["fn"], self.indices), True
        elif not is_subsample(msg):
            check_law(msg["name"], msg["fn"])
            msg["fn"] = as_normal(msg["fn"])
            as_computed(msg)
        if msg["is_observed"] and not is_subsample(msg):
            msg["value"] = observed(msg["name"], msg["value"])
        if is_subsample(msg) or msg["is_observed"] or msg["done"]:
            return
        name = name_of(msg)
        check_support(name, msg["fn"])
        if name in self.integrated:
            value = standing(msg, self.drawn)
        elif not is_discrete(msg["fn"]):
            value = value_of_prior(name, msg["fn"], self.fitted)
            self.parameters[name] = Parameter(name, "prior", msg["fn"].support, value.clone())
        else:
            value = support(msg)[0]
            if self.provenance:
                value = Marked(value, frozenset({name}))
        msg["value"], msg["done"] = value, True

    def _pyro_post_sample(self, msg: Any) -> None:
        name = name_of(msg)
        for frame in msg["cond_indep_stack"]:
            refuse_part(frame)
        if is_subsample(msg) or msg["infer"].get("_deterministic"):
            return
        if isinstance(unwrap(msg["fn"]).base, torch.distributions.MixtureSameFamily):
            raise ModelError(
                f'Site "{name}": expected a sampled assignment to enumerate, got MixtureSameFamily, a mixture that is '
                f"summed inside. Write the assignment as a site: z = pyro.sample("
                f'"z", dist.Categorical(weights)), then pyro.sample("{name}", the component at z, obs=...).'
            )
        if name in self.messages:
            raise ModelError(f'Site "{name}": expected one statement of that name, got two. Give each its own name.')
        self.messages[name] = msg.copy()
        if self.provenance:
            self.upstream[name] = marks_of(msg["fn"], msg["value"], msg["mask"])


def survey(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    fitted: Mapping[str, Parameter] | None = None,
    *,
    unconstrained: bool = False,
    continuous: Mapping[str, str] | None = None,
    integrated: Mapping[str, str] | None = None,
) -> Program:
    """Run `model(*args, **kwargs)` once (again where latents are integrated, or many) and return it as a `Program`.

    Parameters that are `fitted` have their values: no initialiser is run, and there are to be no others.

    Args:
        model: a Pyro model.
        args: its positional arguments.
        kwargs: its keyword arguments.
        fitted: parameters at their fitted values.
        unconstrained: whether priors have the densities of unconstrained coordinates.
        continuous: what the user wants of continuous latents: "maximise", in a data plate too, or "integrate".
        integrated: continuous latents that are integrated, and why; normal ones in data plates are in any case.

    Raises:
        ModelError: the model has a site that exact EM cannot treat; the message names it and the remedy.
        DataError: a plate is empty.
        ParameterError: a parameter is not fitted, or has another shape; or one of `continuous` is no site with a prior.
    """
    indices, drawn = Indices(), Drawn()
    chosen = dict(continuous or {})
    integrated = dict(integrated or {}) | {n: "as you asked" for n, choice in chosen.items() if choice == "integrate"}
    how, first = first_that_runs(
        model, args, kwargs, partial(_run, model, indices, drawn, fitted, integrated), fitted=fitted is not None
    )
    passed = args, kwargs
    args, kwargs = converted(args, kwargs, how)
    check_chosen(first.messages, chosen, fitted)
    integrated |= further(first.messages, first.parameters, fitted, integrated)
    integrated |= normal_in_data(first.messages, {*integrated, *chosen})
    if integrated.keys() - first.integrated:
        first = _run(model, indices, drawn, fitted, integrated, args, kwargs)
    messages = first.messages
    latent = [n for n, msg in messages.items() if not msg["is_observed"] and is_discrete(msg["fn"])]
    if not any(msg["is_observed"] for msg in messages.values()):
        raise ModelError("The model: expected at least one observed site, got none. Pass the data as obs=.")
    by_row = local_continuous(messages, {*latent, *integrated}, chosen)
    again = partial(_run, model, indices, drawn, fitted, integrated, args, kwargs, provenance=True)
    upstream = _upstream(again, latent, messages)
    frames = [frame for msg in messages.values() for frame in msg["cond_indep_stack"] if frame.vectorized]
    latents = _latents(latent, messages, upstream, max((-frame.dim for frame in frames), default=0))
    sizes = {frame.name: frame.size for frame in frames}
    _check_names(messages.keys(), sizes.keys(), {n for n, p in first.parameters.items() if p.kind != "prior"})
    dims = {frame.name: frame.dim for frame in frames}
    return Program(
        model, args, kwargs, first.parameters, latents, sizes, dims, upstream, first.registered, indices=indices,
        drawn=drawn, how=how, unconstrained=unconstrained, by_row=by_row, passed=passed, held=held(model),
        integrated={name: why for name, why in integrated.items() if name in messages},
    )  # fmt: skip


def _check_names(sites: Collection[str], plates: Collection[str], params: Collection[str]) -> None:
    """Raise where two statements of different kinds have one name, which no trace of Pyro's can hold."""
    for kind, one, other, others in (
        ("Site", sites, "plate", plates),
        ("Parameter", params, "plate", plates),
        ("Parameter", params, "site", sites),
    ):
        for name in sorted(set(one) & set(others)):
            raise ModelError(f'{kind} "{name}": expected a name of its own, got that of a {other}. Rename one of them.')


def _upstream(
    again: Callable[[], _Survey], latent: list[str], messages: Mapping[str, Any]
) -> dict[str, frozenset[str]]:
    """Which latents every site may depend on: all, unless there are so many that a second run is to tell."""
    if len(latent) <= OWN_DIMENSION:
        return dict.fromkeys(messages, frozenset(latent))
    upstream, own = again().upstream, {name: frozenset((name,)) for name in latent}
    nothing = frozenset[str]()
    return {name: upstream.get(name, nothing) | own.get(name, nothing) for name in messages}


def _latents(
    names: list[str], messages: Mapping[str, Any], upstream: Mapping[str, frozenset[str]], depth: int
) -> dict[str, Latent]:
    """The discrete latents, each in a dimension left of the `depth` of the plates."""
    colours = _colour(names, upstream)
    found = {}
    for name in names:
        fn = messages[name]["fn"]
        every = states(support(messages[name]), fn.event_shape)
        found[name] = Latent(name, -1 - depth - colours[name], every, plates_of(messages[name]), len(fn.batch_shape))
    return found


def _run(
    model: Callable[..., Any],
    indices: Indices,
    drawn: Drawn,
    fitted: Mapping[str, Parameter] | None,
    integrated: Collection[str],
    args: Any,
    kwargs: Any,
    *,
    provenance: bool = False,
) -> _Survey:
    handler = _Survey(indices, drawn, fitted, integrated, provenance=provenance)
    try:
        with quiet(), untouched_store() as registered, torch.enable_grad(), no_empty_plate(), handler, taken_apart():
            model(*args, **kwargs)
        stated = handler.parameters
        handler.registered = {n: (t, stated[n].constraint if n in stated else c) for n, (t, c) in registered.items()}
    except ValueError as error:
        # Fitted parameters may lack entries for other rows.
        if fitted is None and (ours := mismatched(error, handler.messages)):
            raise ours from error
        told = str(error).partition(NO_WEIGHT)
        if told[0] or not told[1]:
            raise
        last = next(reversed(handler.messages), "")
        raise DataError(
            f"The model: expected row weights (poutine.scale) that are numbers above zero, got {told[2]} "
            + (f'after site "{last}". ' if last else "around its first site. ")
            + "What is not to count is left out by poutine.mask."
        ) from error
    except (IndexError, RuntimeError) as error:
        if fitted is not None:
            raise
        with quiet(), untouched_store(), block():
            model(*args, **kwargs)  # an error of the model itself is the user's, not ours
        raise ModelError(
            f"The model: expected to run with each latent at one value of broadcast shape, got {type(error).__name__}: "
            f"{error}. Index by values (table[z], Vindex), not by the position of a row or a state."
        ) from error
    return handler


def _colour(latents: list[str], upstream: Mapping[str, frozenset[str]]) -> dict[str, int]:
    """Give each latent the least dimension that no latent meeting it at a site has (greedy graph colouring)."""
    meets: dict[str, set[str]] = {name: set() for name in latents}
    for together in upstream.values():
        for name in together:
            meets[name] |= together
    colours: dict[str, int] = {}
    for name in latents:
        taken = {colours[other] for other in meets[name] if other in colours}
        colours[name] = next(c for c in range(len(latents)) if c not in taken)
    return colours
