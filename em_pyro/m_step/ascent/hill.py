"""`Q` in unconstrained space: its value, its gradient and its curvature."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from functools import cached_property, partial
from math import prod

import torch
from torch import Tensor

from ...e_step.engine import Engine
from ...e_step.expectation import Expectation
from ...families.charts import domain_of
from ...program.coordinates import Coordinates, joined
from ...program.named import Params, batched
from ...records.frozen import frozen
from .pattern import Pattern, folded, pattern_of, whole
from .products import products


def gradient(
    engine: Engine, found: Expectation, params: Params, names: Sequence[str]
) -> tuple[float, dict[str, Tensor]]:
    """`Q` and its gradient in unconstrained coordinates, zero where a coordinate is infinite.

    At the parameters of the E-step this is the gradient of the objective itself (Fisher's identity).
    """
    coordinates = Coordinates(engine.program, tuple(names))

    def q(values: Params) -> Tensor:
        return engine.q(batched(values), found).squeeze(0)

    hill = Hill(engine, params, coordinates, coordinates.vector(params), q)
    value, slope = hill.slope(hill.start)
    return value, hill.cut(slope)


def hill_of(engine: Engine, found: Expectation, params: Params, names: Sequence[str]) -> Hill:
    """Return the part of `Q` that some parameters enter, from where they are; infinite coordinates are put far out."""
    coordinates = Coordinates(engine.program, tuple(names))
    return Hill(engine, params, coordinates, coordinates.finite(params), engine.q_of(names, found, params))


Point = tuple[Tensor, float, Tensor]
"""A vector, `Q` there, and its gradient there."""


NEXT = 1e-6  # beside `1 + |coordinate|`: so near before an edge a coordinate is held
MOST = 50  # coordinates that are tried


class OnlyOnce(Exception):
    """Something in `Q` has no second derivative in torch."""


@frozen
class Hill:
    """What is climbed: `Q` as a function of one vector, all free parameters side by side.

    Attributes:
        engine: of the program.
        params: values of all parameters, where the climb begins.
        coordinates: of the free ones.
        start: the vector where the climb begins, shape `(D,)`.
        q: from constrained values of all parameters to what is climbed.
    """

    engine: Engine
    params: Params = field(repr=False)
    coordinates: Coordinates
    start: Tensor = field(repr=False)
    q: Callable[[Params], Tensor] = field(repr=False)

    @property
    def smooth(self) -> bool:
        """Whether the gradient can be differentiated again: a module's weights get theirs in another place."""
        return not (self.engine.runs_model and self._weights())

    @property
    def precision(self) -> float:
        """To which part of itself `Q` is computed: sites that are not compiled are in the program's own dtype."""
        engine = self.engine
        single = any(engine.program.parameters[name].initial.dtype == torch.float32 for name in self.coordinates.names)
        return 1e-7 if single and (engine.written or engine.open_priors) else 1e-13

    @cached_property
    def real(self) -> Tensor:
        """Which coordinates have the units of the data: those of real parameters, `(D,)`."""
        program = self.engine.program
        parts = {
            name: torch.full_like(part, float(domain_of(program.parameters[name].constraint) == "real"))
            for name, part in self.cut(self.start).items()
        }
        return joined(parts) > 0

    @property
    def rows(self) -> int:
        """Rows of the data, whether equal ones are merged or not."""
        return max(1, prod(self.engine.full.program.plates.values()))

    def cut(self, vector: Tensor) -> dict[str, Tensor]:
        """One tensor for each free parameter."""
        return self.coordinates.cut(vector, self.params)

    def values(self, vector: Tensor) -> dict[str, Tensor]:
        """Constrained values of the free parameters."""
        params = self.coordinates.params(vector, self.params)
        return {name: params[name] for name in self.coordinates.names}

    def value(self, vector: Tensor) -> float:
        """`Q` at a trial point; minus infinity where it is not defined."""
        try:
            with torch.no_grad():
                q = float(self.q(self.coordinates.params(vector, self.params)))
        except (ValueError, torch.linalg.LinAlgError):
            return -torch.inf
        return q if q == q else -torch.inf

    def trial(self, vector: Tensor) -> tuple[float, Tensor]:
        """`Q` and its gradient at a trial point; minus infinity and zero where one of them is not defined."""
        try:
            value, slope = self.slope(vector)
        except (ValueError, torch.linalg.LinAlgError):
            return -torch.inf, torch.zeros_like(vector)
        defined = value == value and bool(torch.isfinite(slope).all())
        return (value, slope) if defined else (-torch.inf, torch.zeros_like(vector))

    def slope(self, vector: Tensor) -> tuple[float, Tensor]:
        """`Q` and its gradient."""
        with self._evaluated(vector) as (leaf, weights, q):
            if not q.requires_grad:
                return float(q), torch.zeros_like(vector)
            slope, *others = torch.autograd.grad(q, [leaf, *weights.values()], allow_unused=True)
        slope = torch.zeros_like(vector) if slope is None else slope
        parts = self.cut(slope)
        for name, other in zip(weights, others, strict=True):
            if other is not None:
                parts[name] = parts[name] + other.double()
        slope = joined(parts)
        return float(q.detach()), torch.where(torch.isfinite(vector), slope, 0.0)

    def curvature(self, vector: Tensor, pattern: Pattern | None = None) -> tuple[Tensor, Pattern]:
        """The Hessian, by one more backward pass an entry, or a colour of `pattern`; and the pattern of its zeros.

        Raises:
            OnlyOnce: torch cannot differentiate `Q` twice.
        """
        try:
            return self._curvature(vector, pattern)
        except torch.linalg.LinAlgError:
            raise
        except RuntimeError as error:
            if "derivative" in str(error) or "differentia" in str(error):
                raise OnlyOnce from error
            raise

    def _curvature(self, vector: Tensor, pattern: Pattern | None) -> tuple[Tensor, Pattern]:
        with self._evaluated(vector) as (leaf, _, q):
            slope = torch.autograd.grad(q, leaf, create_graph=True)[0] if q.requires_grad else q

            along = partial(products, slope, leaf, entries=self._entries)
            hessian = None if pattern is None else folded(along, pattern, vector)
            if hessian is None:
                hessian = whole(along, vector)
                pattern = pattern_of(hessian.nan_to_num(1.0), pattern)
        assert pattern is not None
        return hessian, pattern

    @cached_property
    def _entries(self) -> int:
        """Entries of all factors."""
        engine = self.engine
        return sum(prod(engine.sizes[n] for n in factor.names) for factor in engine.factors.values())

    def _weights(self) -> dict[str, Tensor]:
        """Weights of a module that the model reads from the module itself."""
        parameters = self.engine.program.parameters
        if not self.engine.runs_model:
            return {}
        return {name: w for name in self.coordinates.names if (w := parameters[name].tensor) is not None}

    @contextlib.contextmanager
    def _evaluated(self, vector: Tensor) -> Iterator[tuple[Tensor, dict[str, Tensor], Tensor]]:
        leaf, weights = vector.detach().clone().requires_grad_(), self._weights()
        with torch.enable_grad():
            values = self.coordinates.params(leaf, self.params)
            with self.engine.program.given({name: values[name] for name in weights}):
                yield leaf, weights, self.q(values)


@frozen
class Held(Hill):
    """The same, along coordinates that do not stand before an edge of what is possible.

    Attributes:
        edges: coordinates that stand there, and are held, `(D,)`.
    """

    edges: Tensor = field(repr=False)

    def free(self, slope: Tensor) -> Tensor:
        """Return a gradient, zero along what is held."""
        return slope.masked_fill(self.edges, 0.0)

    def slope(self, vector: Tensor) -> tuple[float, Tensor]:
        """`Q` and its gradient; zero along what is held."""
        value, slope = super().slope(vector)
        return value, self.free(slope)

    def curvature(self, vector: Tensor, pattern: Pattern | None = None) -> tuple[Tensor, Pattern]:
        """The Hessian, with ones, negative, for what is held."""
        hessian, pattern = super().curvature(vector, pattern)
        hessian = hessian.masked_fill(self.edges | self.edges.unsqueeze(-1), 0.0)
        return hessian - torch.diag(self.edges.to(hessian)), pattern


def held(hill: Hill, point: Point) -> Held | None:
    """Hold the coordinates along which a step up the slope, however short, is impossible: a bound of a support is next.

    Returns:
        None where there are none, or no others.
    """
    vector, _, slope = point
    steep = slope != 0
    if not bool(steep.any()) or len(slope) > MOST:
        return None
    up = NEXT * (1 + vector.abs()) * slope.sign()
    if hill.value(vector + up) > -torch.inf:
        return None
    steps = torch.diag(up)
    edges = torch.tensor(
        [bool(some) and hill.value(vector + one) == -torch.inf for some, one in zip(steep, steps, strict=True)]
    )
    if not bool(edges.any()) or bool(edges[steep].all()):
        return None
    return Held(hill.engine, hill.params, hill.coordinates, hill.start, hill.q, edges)
