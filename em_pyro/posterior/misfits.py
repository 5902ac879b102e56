"""Whether fitted values serve other rows: the model's states, rows and columns must select from them as they did.

Initialisers cannot be asked, since other rows may not allow them to be run (one row has no spread).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..errors import EMError
from ..program.named import Params
from ..program.program import Program
from ..program.site import Site
from ..program.stated import misfit

FAULTS = (IndexError, RuntimeError, ValueError)
"""What torch and Pyro raise where shapes do not fit."""


def check_states(here: Program, there: Program) -> None:
    """Raise where a latent has other states, and a parameter has an entry for each of those that it had."""
    for name in [name for name in here.latents if name in there.latents]:
        was, now = here.latents[name].size, there.latents[name].size
        if was == now:
            continue
        got = f'{now} states of latent "{name}", which had {was}'
        for parameter in here.parameters.values():
            other = there.parameters.get(parameter.name)
            if other is None or was in parameter.initial.shape:
                stated = f", and an initial value of shape {other.stated}" if other is not None and other.stated else ""
                raise misfit(parameter.name, parameter.initial, got + stated)
        if now < was:
            before, after = _selected(here), _selected(there)
            for key in [key for key in before if key in after]:
                if bool((before[key] & ~after[key]).any()):
                    raise misfit(key, here.parameters[key].initial, got)


def check_stated(here: Program, there: Program) -> None:
    """Raise where the initial value has another shape now, and less of the fitted one is used.

    A table with a category that other rows lack is used as before. Where the shape enters an index, it is not.
    """
    others = [p for p in there.parameters.values() if p.stated not in (None, tuple(p.initial.shape))]
    before, after = (_selected(here), _selected(there)) if others else ({}, {})
    for p in others:
        used = p.name in before and p.name in after and not bool((before[p.name] & ~after[p.name]).any())
        if not used or len(p.stated or ()) != p.initial.dim():
            raise misfit(p.name, p.initial, f"an initial value of shape {p.stated}")


def check_broadcast(here: Program, there: Program) -> None:
    """Raise where an argument has a single column now, and is added to a parameter as if it had all that it had.

    The model then does the same with that column repeated.
    """
    before: dict[Any, Any] = {**dict(enumerate(here.args)), **here.kwargs}
    after: dict[Any, Any] = {**dict(enumerate(there.args)), **there.kwargs}
    for key, now in after.items():
        was = before.get(key)
        if not isinstance(now, Tensor) or not isinstance(was, Tensor) or was.dim() != now.dim():
            continue
        for axis in [i for i in range(1, now.dim()) if now.shape[i] == 1 < was.shape[i]]:
            wide = [p for p in there.parameters.values() if was.shape[axis] in p.initial.shape]
            repeated = now.repeat_interleave(was.shape[axis], axis)
            args = tuple(repeated if i == key else part for i, part in enumerate(there.args))
            kwargs = {name: repeated if name == key else part for name, part in there.kwargs.items()}
            if wide and _same(there, replace(there, args=args, kwargs=kwargs)):
                got = f"an argument of shape {tuple(now.shape)}, which had {was.shape[axis]} columns"
                raise misfit(wide[0].name, wide[0].initial, got)


def _same(one: Program, other: Program) -> bool:
    """Whether two programs have the same distributions at their initial values; one that does not run has not."""
    values = {name: parameter.initial for name, parameter in one.parameters.items()}
    try:
        with torch.no_grad():
            runs = one.run(values), other.run(values)
    except (EMError, *FAULTS):
        return False
    parts = ([part for site in run.values() for part in tensors(site.fn)] for run in runs)
    return all(torch.equal(a, b) for a, b in zip(*parts, strict=False))


def check_rows(here: Program, there: Program) -> None:
    """Raise where a parameter had an entry for each row of a plate, and fewer rows take the first of them."""
    for plate in [plate for plate in here.plates if plate in there.plates]:
        was, now = here.plates[plate], there.plates[plate]
        if now >= was or not any(was in p.initial.shape for p in there.parameters.values()):
            continue
        for name, used in _selected(there).items():
            for axis in [i for i, size in enumerate(used.shape) if size == was]:
                along = used.movedim(axis, 0).reshape(was, -1).any(-1)
                if bool(along[:now].all()) and not bool(along[now:].any()):
                    raise misfit(
                        name, used, f'{now} rows of plate "{plate}", which had {was}: it has an entry for each'
                    )


def check_columns(here: Program, sites: Mapping[str, Site], sources: Params) -> None:
    """Raise where an observed value has other columns than its distribution."""
    before: Mapping[str, Site] = {}
    for site in sites.values():
        want, got = site.fn.event_shape, _columns(site)  # type: ignore[attr-defined]
        if site.role != "observed" or got == want or hasattr(site.fn, "observation_dist"):
            continue
        if len(got) == len(want) and all(a in (1, b) for a, b in zip(want, got, strict=True)):  # they are broadcast
            before = before or here.run({n: p.initial for n, p in here.parameters.items()})
            if site.name not in before or _columns(before[site.name]) != want:
                continue  # as they were
        what = f'values of shape {tuple(got)} in every row of site "{site.name}"'
        names = behind(tensors(site.fn), sources)
        if names:
            raise misfit(names[0], sources[names[0]], what)


def _columns(site: Site) -> torch.Size:
    return site.value.shape[site.value.dim() - site.fn.event_dim :]  # type: ignore[attr-defined]


def _selected(program: Program) -> dict[str, Tensor]:
    """Return which entries of every parameter enter some site, in some row or state."""
    leaves = {n: p.initial.clone().requires_grad_() for n, p in program.parameters.items() if p.tensor is None}
    given = {n: p.initial for n, p in program.parameters.items()} | leaves
    generator, total = torch.Generator().manual_seed(0), torch.zeros(())
    with torch.enable_grad():
        for site in program.run(given).values():
            for tensor in (site.value, *tensors(site.fn)):
                if tensor.requires_grad:
                    noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64, device="cpu")
                    total = total + (noise.to(tensor) * tensor).nan_to_num(0.0, 0.0, 0.0).sum()
    if not total.requires_grad:
        return {}
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return {n: g != 0 for n, g in zip(leaves, found, strict=True) if g is not None}


def tensors(fn: Any) -> Iterator[Tensor]:
    """Go through the tensors inside a distribution."""
    for value in vars(fn).values():
        if isinstance(value, Distribution):
            yield from tensors(value)
        elif isinstance(value, Tensor):
            yield value


def behind(tensors: Iterable[Tensor], sources: Params) -> list[str]:
    """Name the parameters that tensors were computed from."""
    names = {id(leaf): name for name, leaf in sources.items()}
    found = dict[str, None]()
    for tensor in tensors:
        found |= {names[id(tensor)]: None} if id(tensor) in names else {}
        stack, seen = [tensor.grad_fn], set[Any]()
        while stack:
            node = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            leaf = getattr(node, "variable", None)
            found |= {names[id(leaf)]: None} if id(leaf) in names else {}
            stack += [parent for parent, _ in node.next_functions]
    return list(found)
