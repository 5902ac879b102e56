"""Catch programs that run without an error and whose enumeration is wrong.

Pyro enumerates by broadcasting, so a program that reduces over a plate, indexes by position or branches on a sampled
value gets wrong factors silently. Every argument of every site is therefore compared with what the program does when
its latents take concrete values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import product

import torch
from torch import Tensor

from ..errors import ModelError
from ..program.devices import seed_generators, seeded
from ..program.handlers import quiet
from ..program.named import Named, Params
from ..program.program import Program
from ..program.site import Site
from .side_by_side import Alike, alike, differences

JOINT_VALUES = 64
DRAWS = 8
LONG = 1000  # sites beyond which two draws suffice: each has hundreds of latents in all their states
STATES = 100  # of a latent, all rows of all draws together, that suffice
SMALL = 1000  # rows up to which latents are also drawn independently in every row
UNUSUAL = 7_340_033  # a seed that nobody else has


def check_structure(program: Program, names: Mapping[str, tuple[str, ...]], sites: Mapping[str, Site]) -> None:
    """Refuse a factor that carries a latent whose plates its site does not sit in.

    Raises:
        ModelError: naming the site, the latent and the plate.
    """
    for site, dims in names.items():
        for latent in (program.latents[n] for n in dims if n in program.latents):
            outside = [plate for plate in latent.plates if plate not in sites[site].plates]
            if outside:
                raise ModelError(
                    f'Site "{site}": expected to be inside plate "{outside[0]}", as the latent "{latent.name}" on '
                    f"which it depends is, got plates {list(sites[site].plates)}. Move it into the plate, or the "
                    f"latent out."
                )


def check_values(program: Program, params: Params, enumerated: Mapping[str, Site]) -> None:
    """Run the program with concrete latents and compare every argument with the enumerated one at those values.

    First each joint value of the supports (at most 64 of them), the same in all rows; then, on small programs, two to
    eight draws uniform over the support, independent in every row: fewer, the more rows there are.

    Raises:
        ModelError: an argument differs; the message names the site and the latents' values.
    """
    if not program.latents:
        return
    rows = max(program.plates.values(), default=1)
    with torch.no_grad():
        groups = alike(enumerated, program)
    numbers = torch.arange(max(latent.size for latent in program.latents.values())).unbind()
    failure: ModelError | None = None
    for index in _joint_values(program):
        states = {n: _shared(program, n, k) for n, k in index.items()}
        try:
            concrete = _run(program, params, states)
        except ModelError:
            raise
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            failure = failure or _broken(index, error)
            break
        _compare(groups, program, concrete, {n: Named(numbers[k], ()) for n, k in index.items()}, index)
    everywhere = not any(latent.plates for latent in program.latents.values())  # a joint value is such a draw
    if (rows > SMALL or everywhere) and failure is None:
        return
    generator = torch.Generator().manual_seed(0)
    for _ in range(_draws(program)):
        drawn = {}
        for name, latent in program.latents.items():
            shape = tuple(program.plates[p] for p in latent.plates)
            drawn[name] = seeded(torch.randint, latent.size, shape, generator=generator)
        states = {n: _placed(program, n, k) for n, k in drawn.items()}
        try:
            concrete = _run(program, params, states)
        except ModelError:
            raise
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise _broken({n: k.tolist() for n, k in drawn.items()}, error) from error
        named = {n: _named_index(program, n, k) for n, k in drawn.items()}
        _compare(groups, program, concrete, named, {n: k.tolist() for n, k in drawn.items()})


def _draws(program: Program) -> int:
    """How often to draw the states of all rows: every latent is then in a hundred states, each drawn by itself."""
    if len(program.upstream) > LONG:
        return 2
    rows = min(math.prod(program.plates[p] for p in latent.plates) for latent in program.latents.values())
    return min(DRAWS, max(2, -(-STATES // rows)))


def _run(program: Program, params: Params, states: Mapping[str, Tensor]) -> dict[str, Site]:
    """Run at concrete states, from another state of the generator: a model that draws random numbers is found out."""
    with torch.no_grad(), quiet():
        seed_generators(UNUSUAL)
        return program.run(params, states)


def _broken(index: Mapping[str, object], error: Exception) -> ModelError:
    return ModelError(
        f"The model: expected to run with its latents at {_shown(index)}, got {type(error).__name__}: {error}. Index "
        f"by values (table[z], Vindex), not by the position of a row or a state."
    )


def _shown(index: Mapping[str, object]) -> str:
    text = ", ".join(f"{name}={value}" for name, value in list(index.items())[:4])
    return text + (", ..." if len(index) > 4 else "")


def _joint_values(program: Program) -> Iterator[dict[str, int]]:
    latents = program.latents
    count = 1
    for latent in latents.values():
        count *= latent.size
        if count > JOINT_VALUES:
            break
    if count <= JOINT_VALUES:
        yield from (dict(zip(latents, k, strict=True)) for k in product(*(range(v.size) for v in latents.values())))
        return
    generator = torch.Generator().manual_seed(0)
    largest = max(latent.size for latent in latents.values())
    for k in range(min(largest, JOINT_VALUES // 2)):
        yield {name: k % latent.size for name, latent in latents.items()}
    for _ in range(JOINT_VALUES // 2 if len(latents) < SMALL // 10 else 2):
        yield {n: int(seeded(torch.randint, v.size, (), generator=generator)) for n, v in latents.items()}


def _shared(program: Program, name: str, k: int) -> Tensor:
    """Return one state in all rows, in broadcast shape."""
    latent = program.latents[name]
    depth = -min(_dims_of_plates(program, name), default=0)
    return latent.support[k].reshape((1,) * depth + tuple(latent.support.shape[1:]))


def _dims_of_plates(program: Program, name: str) -> list[int]:
    return [program.plate_dims[plate] for plate in program.latents[name].plates]


def _placed(program: Program, name: str, index: Tensor) -> Tensor:
    """Return drawn states, in the tensor dimensions of their plates."""
    latent = program.latents[name]
    dims = _dims_of_plates(program, name)
    depth = -min(dims, default=0)
    shape = [1] * depth
    for plate, dim in zip(latent.plates, dims, strict=True):
        shape[dim] = program.plates[plate]
    values = latent.support[index]
    return values.reshape(tuple(shape) + tuple(latent.support.shape[1:]))


def _named_index(program: Program, name: str, index: Tensor) -> Named:
    plates = program.latents[name].plates
    keep = tuple(p for p in plates if program.plates[p] > 1)
    return Named(index.reshape([program.plates[p] for p in keep]), keep)


def _compare(
    groups: list[Alike],
    program: Program,
    concrete: Mapping[str, Site],
    index: Mapping[str, Named],
    shown: Mapping[str, object],
) -> None:
    for name, what in differences(groups, program, concrete, index):
        raise ModelError(
            f'Site "{name}": expected {what} to be the same whether its latents are enumerated or concrete, '
            f"got another one at {_shown(shown)}. Do not reduce over a plate, index by position, branch on a "
            f"sampled value or draw random numbers: let every row and state be computed by broadcasting."
        )
