"""Programs and zoo models laid out by hand, in both engines, at generic parameters: what the laws are run over."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import pyro
import torch
from programs.registry import NAMES
from programs.registry import build as build_case
from programs.zoo import ZOO, simulated
from torch import Tensor

from em_pyro.e_step.build import build
from em_pyro.e_step.engine import Engine
from em_pyro.e_step.make import engine_of
from em_pyro.fit.problem import Problem
from em_pyro.m_step.plan import Plan, choose
from em_pyro.program.coordinates import constrained, unconstrained
from em_pyro.program.masks import alive
from em_pyro.program.program import Program
from em_pyro.program.store import starting_values
from em_pyro.program.survey import survey
from em_pyro.reading.reading import Recognition
from em_pyro.reading.recognise import recognise
from oracles.agreement import close
from oracles.replay import Params, moved_params, starting_params

Model = Callable[..., Any]


@dataclass(frozen=True)
class Built:
    """One model with its arguments, recognised.

    Attributes:
        here: parameters at which E-steps are taken.
        there: generic parameters elsewhere.
    """

    model: Model
    args: tuple[Any, ...]
    program: Program
    recognition: Recognition
    here: dict[str, Tensor]
    there: dict[str, Tensor]

    @cached_property
    def compiled(self) -> Engine:
        """Recognised sites as matrix products, the others replayed."""
        return self._engine(recognised=True)

    @cached_property
    def replayed(self) -> Engine:
        """Every site by the model's own `log_prob`."""
        return self._engine(recognised=False)

    @cached_property
    def plan(self) -> Plan:
        """What the library would do by itself."""
        return choose(self.compiled, {}, {})

    @cached_property
    def problem(self) -> Problem:
        """What a fit asks, equal rows merged, without the looks at a program that `prepare` takes."""
        with pyro.get_param_store().scope():
            engine, _ = engine_of(self.program, self.recognition, merge=True)
        return Problem(self.program, engine, choose(engine, {}, {}))

    def plan_with(self, how: str) -> Plan:
        """The plan with every closed form done in another way."""
        closed = [name for name, line in self.plan.lines.items() if line.closed_form]
        return choose(self.compiled, dict.fromkeys(closed, how), {})

    def _engine(self, *, recognised: bool) -> Engine:
        with torch.no_grad():
            sites = self.program.run(self.here)
        live = alive(self.program, self.recognition.runs)
        return build(self.program, self.recognition, sites, self.recognition.priors, live, recognised=recognised)


def lay_out(model: Model, args: tuple[Any, ...], here: Params | None = None, there: Params | None = None) -> Built:
    """Survey and recognise a model; parameters not given are the starting ones, and a random move of them."""
    with pyro.get_param_store().scope():
        program = survey(model, args, {})
        recognition = recognise(program)
        start = {name: value.double() for name, value in starting_values(program).items()}
    found = Built(model, args, program, recognition, start, start)
    at = moved(found.compiled, start, 1) if here is None else {name: value.double() for name, value in here.items()}
    to = moved(found.compiled, start, 2) if there is None else {name: value.double() for name, value in there.items()}
    return Built(model, args, program, recognition, at, to)


def moved(engine: Engine, params: Mapping[str, Tensor], seed: int, size: float = 0.2) -> dict[str, Tensor]:
    """Shift every parameter at random in unconstrained space."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, value in params.items():
        point = unconstrained(engine.program, name, value)
        noise = torch.randn(point.shape, generator=generator, dtype=torch.float64)
        shifted = constrained(engine.program, name, point + size * noise)
        found[name] = torch.where(torch.isfinite(shifted), shifted, value)
    return found


@cache
def laid_out(name: str) -> Built:
    """A program or a zoo model by its name, at generic parameters."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with pyro.get_param_store().scope():
            pyro.clear_param_store()
            if name in NAMES:
                case = build_case(name)
                return lay_out(case.model, case.args, starting_params(case), moved_params(case, seed=1))
            return lay_out(*simulated(name))
    finally:
        torch.set_default_dtype(before)


EVERYTHING = (*NAMES, *ZOO)
"""Names of all programs and all zoo models."""


def distance(got: float | Tensor, want: float | Tensor) -> float:
    """Largest difference relative to `1 + |want|`."""
    a, b = torch.as_tensor(got).detach().double(), torch.as_tensor(want).detach().double()
    assert a.shape == b.shape, f"shapes {tuple(a.shape)} and {tuple(b.shape)}"
    gap = torch.where(a == b, 0.0, (a - b).abs() / (1 + b.abs()))  # equal infinities are equal
    return float(gap.max()) if a.numel() else 0.0


def farthest(got: Params, want: Params) -> float:
    """Largest distance over parameters."""
    assert got.keys() == want.keys()
    return max(distance(got[name], want[name]) for name in want)


def same(one: Engine, other: Engine, batch: dict[str, Tensor]) -> None:
    """Hold that two engines find the same evidence and statistics."""
    a, b = (each.expect(each.bind(batch)) for each in (one, other))
    close(a.log_evidence, b.log_evidence)
    assert a.sums.keys() == b.sums.keys()
    for name, sums in a.sums.items():
        for mine, theirs in zip(sums.parts, b.sums[name].parts, strict=True):
            close(mine, theirs)
