"""Commands for a model of the user's own: a function in a Python file, and a table whose columns it takes."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pyro

from .. import EM, Fit, load, select
from ..after.source import remarks_in
from ..errors import ParameterError
from .answers import report, save
from .columns import Columns, columns_of
from .labels import labelled
from .model_file import model_in
from .race import race
from .tables import Table, TableError, read, write


def fit(args: Namespace) -> int:
    """Fit, print, and save what was asked for."""
    model, columns = _posed(args)
    with pyro.get_param_store().scope():
        em = EM(model, **_options(args), progress=sys.stderr.isatty())
        found = em.fit(*columns.args, **columns.kwargs)
    with report(args.json):
        print(f"{_title(args)}\n\n{found.plan}\n\n{found.summary() if args.errors else found}")
        if args.save:
            found.save(args.save, remarks=_remarks(args, columns))
            print(f"\nFit: {args.save}")
    if args.json:
        save(args.json, _answer(found))
    return 0 if found.converged else 1


def plan(args: Namespace) -> int:
    """Say how every parameter would be maximised."""
    model, columns = _posed(args)
    with pyro.get_param_store().scope():
        print(f"{_title(args)}\n\n{EM(model).plan(*columns.args, **columns.kwargs)}")
    return 0


def choose(args: Namespace) -> int:
    """Fit once for every value of an argument, and print the table."""
    model, columns = _posed(args, without=args.over[0])
    name, values = args.over
    options: dict[str, Any] = {"criterion": args.criterion, "starts": args.starts, "seed": args.seed}
    options |= {"tol": args.tol, "max_steps": args.max_steps, "progress": sys.stderr.isatty()}
    found = select(
        lambda value: partial(model, **{name: value}), values, *columns.args, model_kwargs=columns.kwargs, **options
    )
    with report(args.json):
        print(f"{_title(args)}\n\n{found}")
    if args.json:
        save(args.json, json.loads(found.to_frame().to_json(orient="records", double_precision=15)))
    return 0


def compare(args: Namespace) -> int:
    """Race EM, SVI and L-BFGS."""
    model, columns = _posed(args)
    return race(_title(args), model, columns.args, columns.kwargs, args)


def label(args: Namespace) -> int:
    """Write the posterior of the latents of new rows beside their id."""
    told = remarks_in(args.fit)
    spec = args.model or told.get("model")
    if spec is None:
        raise TableError(f"{args.fit}: expected a fit of this command, got one of another. Name --model FILE.py:NAME.")
    model, settings = model_in(spec), {**told.get("set", {}), **args.set}
    table = _table(args)
    chosen, whole = args.columns or told.get("columns"), args.integers or told.get("integers")
    columns = columns_of(model, table, chosen, settings, args.id, whole)
    found: Fit = load(args.fit, model)
    said = labelled(found.posterior_on(*columns.args, **columns.kwargs), len(table))
    if args.id in said:
        raise TableError(f'--id: expected a column that is called otherwise than a latent, got "{args.id}". Rename it.')
    write(args.output, {**({args.id: table.cells(args.id)} if args.id else {}), **said})
    print(f"{len(table)} rows: {args.output}")
    return 0


def summary(args: Namespace) -> int:
    """Print a fit that was saved."""
    found: Fit = load(args.fit)
    with report(args.json):
        print(found.summary())
    if args.json:
        save(args.json, _answer(found))
    return 0


def _posed(args: Namespace, without: str | None = None) -> tuple[Callable[..., Any], Columns]:
    """Return the model and what it is given; `without` an argument that is still to come."""
    if without is not None and without in args.set:
        raise ParameterError(f'--over: expected an argument that --set does not fix, got "{without}" in both.')
    model = model_in(args.model)
    later = () if without is None else (without,)
    return model, columns_of(model, _table(args), args.columns, args.set, args.id, args.integers, later)


def _remarks(args: Namespace, columns: Columns) -> dict[str, Any]:
    """Return what `label` has to know of a fit besides its values."""
    return {"model": args.model, "set": args.set, "columns": columns.names, "integers": args.integers}


def _table(args: Namespace) -> Table:
    return read(args.data, separator=args.separator, decimal=args.decimal)


def _title(args: Namespace) -> str:
    settings = "".join(f", {name}={value!r}" for name, value in args.set.items())
    return f"{args.model}{settings} on {args.data}"


def _options(args: Namespace) -> dict[str, Any]:
    return {"starts": args.starts, "seed": args.seed, "tol": args.tol, "max_steps": args.max_steps}


def _answer(found: Fit) -> Mapping[str, Any]:
    return {
        "params": {name: value.tolist() for name, value in found.params.items()},
        "log_likelihood": found.log_likelihood,
        "objective": found.objective,
        "converged": found.converged,
        "outcome": found.outcome,
        "steps": found.num_steps,
        "gap": found.gap,
        "parameters": found.num_parameters,
        "aic": found.aic,
        "bic": found.bic,
        "icl": found.icl,
        "notes": list(found.notes),
    }
