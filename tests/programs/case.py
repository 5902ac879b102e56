"""The record of one small program, and the decorator that puts it into the registry."""

from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import isclass
from typing import Any, TypeVar

from torch import Tensor

Model = Callable[..., Any]
M = TypeVar("M", bound=Model)


@dataclass(frozen=True)
class Case:
    """A correct Pyro program, small enough to be summed by brute force.

    Attributes:
        name: name of the model function, or of the class whose instance is the model.
        model: the program; discrete latents carry no `infer=`.
        args: what the program is called with.
        map_values: a value for each continuous latent site (a MAP parameter), generic and inside its support.
        repeated: for a program with integer row weights, arguments in which rows are repeated instead and every weight
            is one; the two must have the same evidence and the same sums.
        trace_enum: whether Pyro's own `TraceEnum_ELBO` accepts the program: it has no tensor scales, and warns where
            there is nothing to enumerate.
    """

    name: str
    model: Model
    args: tuple[Any, ...]
    map_values: dict[str, Tensor] = field(default_factory=dict)
    repeated: tuple[Any, ...] | None = None
    trace_enum: bool = True


REGISTRY: dict[str, Callable[[], Case]] = {}
"""Builders by name; a case is built inside the test that uses it, under that test's default dtype."""


def program(
    args: Callable[[], tuple[Any, ...]],
    *,
    map_values: Callable[[], dict[str, Tensor]] = dict,
    repeated: Callable[[], tuple[Any, ...]] | None = None,
    trace_enum: bool = True,
) -> Callable[[M], M]:
    """Register a model function (or a class without constructor arguments whose instance is the model)."""

    def register(model: M) -> M:
        name = model.__name__

        def build() -> Case:
            instance: Any = model() if isclass(model) else model
            return Case(
                name=name,
                model=instance,
                args=args(),
                map_values=map_values(),
                repeated=repeated() if repeated else None,
                trace_enum=trace_enum,
            )

        if name in REGISTRY:
            raise ValueError(f'program "{name}" is registered twice')
        REGISTRY[name] = build
        return model

    return register
