"""What a fit is of, in words and numbers that are the same in every process: its data, its model and its options.

Data are compared by digests of their contents. A model is compared by what it does: its statements, its parameters, and
the densities of its sites at a random point, to the digits that another machine has too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from math import isclose
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError, EMError, ModelError, ParameterError
from ...program.changes.contents import raw
from ...program.data.rows_of import named_columns
from ...program.named import unwrap
from ...program.program import Program
from ..problem import Problem

Signature = Mapping[str, Mapping[str, Any]]
"""By what it is about (`option`, `data`, `model`, `density`), a value for each name."""

SAME = {torch.float64: 1e-7, torch.float32: 1e-3}  # of a density, relative to 1 + its size: another machine's rounding
DEEPEST = 6  # containers inside one another
WRONG: Mapping[str, type[EMError]] = {"option": ParameterError, "data": DataError}  # the rest is a ModelError


def signature(problem: Problem, options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what a fit is of."""
    program = problem.program
    arguments = {f"argument {k}": _digest(value) for k, value in enumerate(program.args)}
    arguments |= {f"argument {name}": _digest(value) for name, value in sorted(program.kwargs.items())}
    data, model = dict(arguments), {}
    for name, parameter in program.parameters.items():
        value = parameter.initial
        model[f'parameter "{name}"'] = (
            f"{parameter.kind} of shape {tuple(value.shape)}, {value.dtype}, within {parameter.constraint}"
        )
    model |= {f'latent "{name}"': f"{latent.size} states" for name, latent in program.latents.items()}
    data |= {f'plate "{name}"': f"{size} rows" for name, size in program.plates.items()}
    for name, site in problem.engine.full.recognition.runs[0].items():
        kind = type(unwrap(site.fn).base).__name__
        model[f'site "{name}"'] = f"{site.role}, {kind}, in {', '.join(site.plates) or 'no plate'}"
        seen = (site.value if site.role == "observed" else None, site.mask, site.scale)
        data[f'site "{name}"'] = _digest(seen)
    return {"option": {name: _digest(value) for name, value in options.items()}, "model": model, "data": data}


def of_all(every: Sequence[Signature]) -> Signature:
    """Return what a fit of several processes is of: the data of each."""
    if len(every) == 1:
        return every[0]
    data = {f"{name} of process {rank}": said for rank, one in enumerate(every) for name, said in one["data"].items()}
    return {**every[0], "data": data}


def densities(problem: Problem) -> dict[str, float]:
    """Return the sum of the log-densities of every site at a random point, what is not finite left out."""
    with torch.no_grad():
        run = problem.engine.full.recognition.runs[0]
        found = {name: site.log_prob().tensor.double() for name, site in run.items()}
    return {name: float(density.nan_to_num(0.0, 0.0, 0.0).sum()) for name, density in found.items()}


def check_same(path: Any, was: Signature, now: Signature) -> None:
    """Refuse the file of another fit.

    Raises:
        ParameterError: of other options.
        DataError: of other data.
        ModelError: of another model.
    """
    for kind, before in was.items():
        for name in [*before, *(name for name in now[kind] if name not in before)]:
            if before.get(name) != now[kind].get(name):
                raise _another(path, kind, name, before.get(name), now[kind].get(name))


def check_densities(path: Any, program: Program, was: Mapping[str, float], now: Mapping[str, float]) -> None:
    """Refuse the file of a model that has other densities.

    Raises:
        ModelError: naming the site.
    """
    close = SAME[program.dtype]
    for name, value in was.items():
        if not isclose(value, now[name], rel_tol=close, abs_tol=close):
            raise _another(path, "model", f'density of site "{name}"', f"{value:.9g}", f"{now[name]:.9g}")


def _another(path: Any, kind: str, name: str, was: Any, now: Any) -> EMError:
    said = {None: "none"}
    return WRONG.get(kind, ModelError)(
        f"checkpoint {path}: expected the fit that wrote it, got another {kind}: {name} was "
        f"{said.get(was, was)} and is {said.get(now, now)}. Give another path, or remove the file to begin anew."
    )


def _digest(value: Any, depth: int = 0) -> str:
    """Return a word for the contents of a value: short ones as they are, long ones by a digest."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {value.dtype}, {_hashed(raw(value.cpu()))}"
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"an array of shape {value.shape}, {value.dtype}, {_hashed(np.ascontiguousarray(value))}"
    if isinstance(value, (bool, int, float, str, type(None))):
        return repr(value)
    if depth < DEEPEST and isinstance(value, Mapping):
        return "{" + _long(", ".join(f"{key!r}: {_digest(item, depth + 1)}" for key, item in value.items())) + "}"
    if depth < DEEPEST and isinstance(value, (list, tuple)):
        return "[" + _long(", ".join(_digest(item, depth + 1) for item in value)) + "]"
    if found := named_columns(value):
        return f"a frame of {_digest({name: np.asarray(column) for name, column in found}, depth + 1)}"
    if hasattr(value, "__array__"):
        return _digest(np.asarray(value), depth + 1)
    return f"a {type(value).__name__}"


def _long(text: str) -> str:
    return text if len(text) < 200 else f"{text[:60]} ... {_hashed(text.encode())}"


def _hashed(data: Any) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()
