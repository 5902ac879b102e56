"""Catch programs that run without an error and whose enumeration is wrong.

Pyro enumerates by broadcasting, so a program that reduces over a plate, indexes by position or branches on a sampled
value gets wrong factors silently. Every argument of every site is therefore compared with what the program does when
its latents take concrete values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, product

import torch
from torch import Tensor

from ..errors import EMError, ModelError
from ..program.devices import seed_generators, seeded
from ..program.handlers import quiet
from ..program.named import Named, Params
from ..program.points.abreast import read_abreast, worth
from ..program.program import Program
from ..program.site import Site
from .side_by_side import Alike, Key, alike, differ, differences, parts_of

JOINT_VALUES = 64  # of all latents, up to which every row has each of them
COMBINATIONS = 32  # of states of more latents, drawn besides, in all rows together
DRAWS = 8
LONG = 1000  # sites beyond which two draws suffice: each has hundreds of latents in all their states
MANY = 100  # latents from which each has its states, and no pairs are looked for: there are many of every kind
STATES = 100  # of a latent, all rows of all draws together, that suffice
SMALL = 1000  # rows up to which latents have states of their own in every row
ENTRIES = 300_000  # of arguments, enumerated and in all runs that are compared at once
States = Mapping[str, Tensor]
"""Indices into the supports of the latents, by plates; without dimensions where all rows share one."""
_Concrete = tuple[States, Mapping[str, Site]]
"""States of all latents, and the program there."""
UNUSUAL = 7_340_033  # the first of seeds that nobody else has


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

    Where latents are in plates of at most a thousand rows: once with states that all rows share, then with states of
    their own in every row. Each row goes, in an order of its own, through all joint values of the latents, if these are
    at most 64, and otherwise through all pairs of neighbours, and states are drawn besides; in all, the fewer rows, the
    more runs. In longer plates, and without any, all rows share the states that they go through.

    Raises:
        ModelError: an argument differs; the message names the site and the latents' values.
    """
    apart = max(program.plates.values(), default=1) <= SMALL and any(v.plates for v in program.latents.values())
    with torch.no_grad():
        compared = _Compared(alike(enumerated, program), program, enumerated)
    if not program.latents:  # nothing to choose, but random numbers to be drawn
        compared.add(params, iter([{}]))
        return
    shared = _choices(program, apart=False)
    runs = compared.add(params, islice(shared, 1) if apart else shared)
    if runs is not None or apart:  # states of their own in every row tell whether the program does not run
        failed = compared.add(params, _choices(program, apart=True))
        if failed is not None:
            raise _broken(*failed) from failed[1]


class _Compared:
    """The enumerated run, with which concrete ones are compared: as many at a time as are not much larger."""

    def __init__(self, groups: list[Alike], program: Program, enumerated: Mapping[str, Site]) -> None:
        self.groups, self.program, self.enumerated = groups, program, enumerated
        self.most = max(1, ENTRIES // max(1, sum(group.whole.tensor.numel() for group in groups)))

    def add(self, params: Params, choices: Iterator[States]) -> tuple[States, Exception] | None:
        """Compare the runs at some states of the latents; return the states at which there is no run, and why."""
        while some := list(islice(choices, self.most)):
            if self._agree(params, some):
                continue
            runs, failed = list[_Concrete](), None  # what differs is seen in a run of its own before it is said
            for states in some:
                try:
                    runs.append((states, _run(self.program, params, states)))
                except ModelError:
                    self._compare(runs)
                    raise
                except (RuntimeError, ValueError, IndexError, TypeError) as error:
                    failed = states, error
                    break
            self._compare(runs)
            if failed is not None:
                return failed
        return None

    def _agree(self, params: Params, some: Sequence[States]) -> bool:
        """Tell whether the runs at some states, made at once, are as enumerated: no, where that cannot be done."""
        if not worth(self.program, self.enumerated, len(some)):
            return False
        names = dict[Key, tuple[str, ...]]()

        def read(run: Mapping[str, Site]) -> dict[Key, Tensor]:
            parts = {(name, what): part for name, site in run.items() for what, part in parts_of(site).items()}
            names.update({key: part.names for key, part in parts.items()})
            return {key: part.tensor for key, part in parts.items()}

        placed = [{name: _placed(self.program, name, index) for name, index in states.items()} for states in some]
        try:
            known = _run(self.program, params, some[0])
            found = read_abreast(self.program, known, [params] * len(some), placed, read)
        except (EMError, RuntimeError, ValueError, IndexError, TypeError):
            return False
        if found is None:
            return False
        runs = {key: Named(part, names[key]) for key, part in found.items()}
        indices = dict[str, Named]()
        for name in some[0]:
            each = [_named_index(self.program, name, states[name]) for states in some]
            indices[name] = Named(torch.stack([part.tensor for part in each]), each[0].names)
        return not differ(self.groups, self.program, runs, indices)

    def _compare(self, runs: Sequence[_Concrete]) -> None:
        """Refuse a program whose concrete runs are not what the enumerated one says of them."""
        if not runs:
            return
        with torch.no_grad():
            index = [{n: _named_index(self.program, n, k) for n, k in states.items()} for states, _ in runs]
            found = list(differences(self.groups, self.program, [run for _, run in runs], index))
        for place, name, what in sorted(found, key=lambda difference: difference[0]):
            if not runs[place][0]:
                raise ModelError(
                    f'Site "{name}": expected {what} to be the same in every run of the model, got another one at the '
                    f"same parameters. Draw no random numbers: what is drawn once (data, a mask of dropout) is passed "
                    f"to the model."
                )
            raise ModelError(
                f'Site "{name}": expected {what} to be the same whether its latents are enumerated or concrete, '
                f"got another one at {_shown(runs[place][0])}. Do not reduce over a plate, index by position, branch "
                f"on a sampled value or draw random numbers: let every row and state be computed by broadcasting."
            )


def _choices(program: Program, *, apart: bool) -> Iterator[States]:
    """Yield states of all latents, by plates: of their own in every row, or shared."""
    generator, sizes = torch.Generator().manual_seed(0), {n: v.size for n, v in program.latents.items()}
    plates = {name: latent.plates if apart else () for name, latent in program.latents.items()}
    shapes = {name: tuple(program.plates[p] for p in of) for name, of in plates.items()}
    rows = min(math.prod(shape) for shape in shapes.values())

    def drawn() -> States:
        return {n: seeded(torch.randint, size, shapes[n], generator=generator) for n, size in sizes.items()}

    draws = (2 if len(program.upstream) > LONG else min(DRAWS, max(2, -(-STATES // rows)))) if apart else 0
    orders = {n: torch.arange(size) for n, size in sizes.items()}
    if apart:  # an order for every row by itself: what couples two of them meets all kinds of pairs
        uniform = {n: seeded(torch.rand, size, *shapes[n], generator=generator) for n, size in sizes.items()}
        orders = {n: u.argsort(0) for n, u in uniform.items()}
    shifts = list[Sequence[int]](_shifts(list(sizes.values())))
    for shift in shifts:
        yield {name: orders[name][k % sizes[name]] for name, k in zip(sizes, shift, strict=True)}
    if math.prod(sizes.values()) > JOINT_VALUES:
        few = len(sizes) < MANY
        draws = max(draws, (len(shifts) if apart else 0) + -(-COMBINATIONS // rows) if few else len(shifts) + 2)
    for _ in range(len(shifts), draws):
        yield drawn()


def _shifts(sizes: Sequence[int]) -> Iterable[Sequence[int]]:
    """Places in the orders of the latents' states: of all joint values, or else of all that neighbours have."""
    if math.prod(sizes) <= JOINT_VALUES:
        return product(*map(range, sizes))
    largest, pairs = max(sizes), len(sizes) < MANY
    through = (
        [first + stride * k for k in range(len(sizes))]
        for stride in range(largest if pairs else 1)
        for first in range(largest)
    )
    return islice(through, min(JOINT_VALUES, max(largest, JOINT_VALUES // 2)))


def _run(program: Program, params: Params, states: States) -> dict[str, Site]:
    """Run at concrete states, from a state of the generator of its own: a model that draws random numbers is found out.

    One that branches on them goes another way in some runs.
    """
    with torch.no_grad(), quiet():
        seed_generators(UNUSUAL + sum(int(index.sum()) for index in states.values()))
        return program.run(params, {name: _placed(program, name, index) for name, index in states.items()})


def _broken(states: States, error: Exception) -> ModelError:
    return ModelError(
        f"The model: expected to run with its latents at {_shown(states)}, got {type(error).__name__}: {error}. Index "
        f"by values (table[z], Vindex), not by the position of a row or a state."
    )


def _shown(states: States) -> str:
    text = ", ".join(f"{name}={index.tolist()}" for name, index in list(states.items())[:4])
    return text + (", ..." if len(states) > 4 else "")


def _placed(program: Program, name: str, index: Tensor) -> Tensor:
    """Return states by row in the tensor dimensions of their plates; one that all rows share in those of size one."""
    latent = program.latents[name]
    dims = [program.plate_dims[plate] for plate in latent.plates]
    shape = [1] * -min(dims, default=0)
    for dim, size in zip(dims, index.shape, strict=False):
        shape[dim] = size
    return latent.support[index].reshape((*shape, *latent.support.shape[1:]))


def _named_index(program: Program, name: str, index: Tensor) -> Named:
    plates = program.latents[name].plates if index.dim() else ()
    keep = tuple(p for p in plates if program.plates[p] > 1)
    return Named(index.reshape([program.plates[p] for p in keep]), keep)
