"""Run an ordinary Pyro model under given parameter values, and name what it did.

A `Program` (found by `survey.survey`) replays its model with every discrete latent expanded over its support in a
tensor dimension of its own and every parameter given, and returns one `Site` per sample statement. Nothing here writes
to the param store or moves a global generator. Together with `survey.py` and `handlers.py` this is all that touches
Pyro's handlers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import field, replace
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ..errors import EMError, ModelError
from ..records.frozen import frozen
from .changes.same import OTHER_ARGUMENTS, SAME_ARGUMENTS, check_same, unstable
from .continuous.moved import as_normal
from .continuous.standing import Drawn, standing
from .continuous.whole import taken_apart
from .data.passed import AS_PASSED, as_numbers, converted, observed, weights_of, without_codes
from .data.rows_of import at_rows
from .devices import visiting
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
    untouched_store,
)
from .named import Params
from .site import Latent, Parameter, Run, Site
from .volume import Unconstrained


@frozen
class Program:
    """A model with its arguments: what it samples, what it enumerates and what can be fitted."""

    model: Callable[..., Any] = field(repr=False)
    args: tuple[Any, ...] = field(repr=False)
    kwargs: Mapping[str, Any] = field(repr=False)
    parameters: Mapping[str, Parameter]
    latents: Mapping[str, Latent]
    plates: Mapping[str, int]
    plate_dims: Mapping[str, int] = field(repr=False)  # plate -> tensor dimension
    upstream: Mapping[str, frozenset[str]] = field(repr=False)  # site -> latents that it may depend on
    registered: Mapping[str, tuple[Tensor, Any]] = field(default_factory=dict, repr=False)
    """Unconstrained tensors that a PyroModule would put into the store by itself, with their constraints."""
    view: Callable[[dict[str, Site]], dict[str, Site]] | None = field(default=None, repr=False)
    """How the sites of a run are to be seen: a `DiscreteHMM` taken apart."""
    indices: Indices = field(default_factory=dict, repr=False)
    """What plates hand out, the same tensors in every run."""
    drawn: Drawn = field(default_factory=dict, repr=False)
    """What stands for continuous latents, the same values in every run."""
    held: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What the model had reached after its first run; one that notes down its runs has reached more by the next."""
    how: int = AS_PASSED
    """How arguments are converted: what the model runs with."""
    unconstrained: bool = False
    """Whether the densities of sites with a prior are those of their unconstrained coordinates."""
    by_row: frozenset[str] = frozenset()
    """Sites with a prior that have an entry for each row of a data plate."""
    integrated: Mapping[str, str] = field(default_factory=dict)
    """Continuous latents that are integrated, and why: a run is at values that stand for them, as if observed."""
    passed: tuple[tuple[Any, ...], Mapping[str, Any]] = field(default=((), {}), repr=False)
    """The arguments as they were passed: `args` and `kwargs` may be tensors in their place."""

    @property
    def device(self) -> torch.device:
        """Where the parameters are, and with them the data."""
        return next((parameter.initial.device for parameter in self.parameters.values()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """What the numbers of the model are rounded to: float32 if a parameter is of single precision, else float64."""
        single = any(parameter.initial.dtype == torch.float32 for parameter in self.parameters.values())
        return torch.float32 if single else torch.float64

    @property
    def states(self) -> dict[str, int]:
        """How many states each latent has."""
        return {name: latent.size for name, latent in self.latents.items()}

    @property
    def written(self) -> frozenset[int]:
        """The `id`s of the tensors that hold the parameters, in modules of the user's."""
        held = [p.tensor for p in self.parameters.values() if p.tensor is not None]
        return frozenset(id(tensor) for tensor in (*held, *(tensor for tensor, _ in self.registered.values())))

    def handed_out(self, name: str, values: Params) -> Tensor:
        """Return what a `pyro.param` statement is given: the value, or the weight of a module that has it."""
        known = self.parameters[name]
        return handed_out(values[name], known.constraint) if known.tensor is None else known.tensor

    def batch_shape(self, plates: Iterable[str], rank: int = 0) -> tuple[int, ...]:
        """Return the batch shape of Pyro's own value within `plates`: one where a dimension belongs to none of them."""
        sizes = {self.plate_dims[plate]: self.plates[plate] for plate in plates}
        return tuple(sizes.get(dim, 1) for dim in range(min([-rank, *sizes]), 0))

    def run(self, values: Params, states: Params | None = None) -> dict[str, Site]:
        """Replay the model at `values`, enumerated; a latent named in `states` takes that value instead.

        Returns:
            The sites by name, in the order sampled. Gradients flow to `values` (to the weights of a module, only
            inside `self.given(values)`).
        """
        sites = self._replayed(values, states or {}, SAME_ARGUMENTS).sites
        return sites if self.view is None else self.view(sites)

    def on(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], values: Params | None = None) -> Program:
        """Return the same program on other arguments: other rows, as many or not.

        The model is run once, enumerated, at `values` (the initial ones of the parameters if None), and the sizes of
        the plates are read off. No initialiser runs: the parameters are those of this program, initial values included.

        Raises:
            ModelError: the statements, plates, latents, supports or parameters are not those of this program.
            DataError: a plate is empty.
        """
        return self.run_on(args, kwargs, values)[0]

    def at(self, plate: str, rows: Tensor) -> Program | None:
        """Return the same program on some rows of a plate; None where what it was called with cannot be cut.

        Args:
            plate: whose rows are the first dimension of arguments.
            rows: their numbers, shape `(k,)`.
        """
        count = self.plates[plate]
        args = tuple(at_rows(value, count, rows) for value in self.args)
        kwargs = {key: at_rows(value, count, rows) for key, value in self.kwargs.items()}
        try:
            found = self.on(args, kwargs)
        except (EMError, RuntimeError, ValueError, TypeError, LookupError, AttributeError):
            return None
        return found if found.plates == {**self.plates, plate: len(rows)} else None

    def run_on(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        values: Params | None = None,
        states: Params | None = None,
    ) -> tuple[Program, dict[str, Site]]:
        """Return the same as `on`, and the sites of that run; a latent named in `states` takes that value in it."""
        passed = args, kwargs
        args, kwargs = converted(args, kwargs, self.how)
        other = replace(self, args=args, kwargs=kwargs, indices=dict(self.indices), passed=passed)
        initial = {name: parameter.initial for name, parameter in self.parameters.items()}
        try:
            with torch.no_grad(), no_empty_plate():
                run = other._replayed(initial if values is None else values, states or {}, OTHER_ARGUMENTS)
        except EMError:
            raise
        except (IndexError, RuntimeError, ValueError) as error:
            raise ModelError(
                f"The model: expected to run on other arguments with the same parameters, got {type(error).__name__}: "
                f"{error}. {OTHER_ARGUMENTS}"
            ) from error
        check_same(run, self.parameters, self.latents, self.plate_dims)
        sites = run.sites if self.view is None else self.view(run.sites)
        return replace(other, plates={name: frame.size for name, frame in run.frames.items()}), sites

    def _replayed(self, values: Params, states: Params, remedy: str) -> Run:
        """Run the model, enumerated, and say what it did; `remedy` ends the error of a run with other statements."""
        values = {name: value.to(self.parameters[name].initial.dtype) for name, value in values.items()}
        handler = _Replay(self, values, states, remedy)
        with quiet(), untouched_store(), self.given(values), visiting(), handler, taken_apart():
            self.model(*self.args, **self.kwargs)
        for name in self.upstream:
            if name not in handler.run.sites:
                raise unstable(name, "it was missing in this one", remedy)
        return handler.run

    @contextlib.contextmanager
    def given(self, values: Params) -> Iterator[None]:
        """Swap `values` into the weights of `pyro.module`s, which no handler reaches, and restore them at the end."""
        weights = [(p.tensor, values[n]) for n, p in self.parameters.items() if p.tensor is not None and n in values]
        saved = [tensor.data for tensor, _ in weights]
        try:
            for tensor, value in weights:
                tensor.data = value.detach()
            yield
        finally:
            for (tensor, _), data in zip(weights, saved, strict=True):
                tensor.data = data


class _Replay(Messenger):
    """Give parameters their values and latents their support; record every sample statement."""

    def __init__(self, program: Program, values: Params, states: Params, remedy: str) -> None:
        super().__init__()
        self.program, self.values, self.states, self.remedy = program, values, states, remedy
        self.run = Run({}, {}, {})

    def _pyro_param(self, msg: Any) -> None:
        if is_given(msg):
            return
        if msg["name"] not in self.values:
            raise unstable(msg["name"], "it is new in this one", self.remedy)
        self.run.stated[msg["name"]] = next(iter(msg["args"][1:]), msg["kwargs"].get("init_tensor"))
        msg["value"], msg["done"] = self.program.handed_out(msg["name"], self.values), True

    def _pyro_sample(self, msg: Any) -> None:
        if is_subsample(msg) and msg["value"] is None:
            msg["value"], msg["done"] = indices_of(msg["fn"], self.program.indices), True
        elif not is_subsample(msg):
            msg["fn"] = as_normal(msg["fn"])
            as_computed(msg)
        if msg["is_observed"] and not is_subsample(msg):
            msg["value"] = observed(msg["name"], msg["value"])
        if is_subsample(msg) or msg["is_observed"] or msg["done"]:
            return
        name, latents = name_of(msg), self.program.latents
        if name in self.states:
            value = self.states[name]
        elif name in latents:
            value = latents[name].placed(latents[name].support)
        elif name in self.program.integrated:
            value = standing(msg, self.program.drawn)
        elif name in self.values:
            value = self.values[name]
        else:
            raise unstable(name, "it is new in this one", self.remedy)
        msg["value"], msg["done"] = value, True

    def _pyro_post_sample(self, msg: Any) -> None:
        if is_subsample(msg) or msg["infer"].get("_deterministic"):
            return
        name, latents = name_of(msg), self.program.latents
        if name not in self.program.upstream:
            raise unstable(name, "it is new in this one", self.remedy)
        plates = dict[int, str]()
        for frame in msg["cond_indep_stack"]:
            if frame.vectorized:
                plates[frame.dim] = frame.name
                self.run.frames[frame.name] = frame
        dims = {latents[key].dim: key for key in self.program.upstream[name]} | plates
        given = msg["is_observed"] or name in self.program.integrated
        role = "observed" if given else "latent" if name in latents else "prior"
        mask = msg["mask"] if msg["mask"] is None else torch.as_tensor(msg["mask"]).bool()
        names = tuple(plates[dim] for dim in sorted(plates))
        value = msg["value"]
        if role == "observed":
            value = without_codes(as_numbers(value, msg["fn"]), msg["fn"], mask)
        fn = Unconstrained(msg["fn"]) if role == "prior" and self.program.unconstrained else msg["fn"]
        scale = weights_of(msg["scale"])
        self.run.sites[name] = Site(name, role, fn, value, names, dims, scale, mask)
