"""Do what the command line says."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence

from ..errors import EMError
from . import demo
from .arguments import PROG, parser
from .problems import Problem, bundled, coin_problem, gaussian_problem
from .race import race
from .runs import picture, save_json, solve
from .tables import Table, TableError, read


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, that of the process if none is given, and return its exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0].startswith("--out"):
        given = ["demo", *given]
    if given[0] == "compare" and len(given) > 1 and ".py:" in given[1]:
        given.insert(1, "model")
    args = parser(_demo, _coins, _gaussians, _race_coins, _race_gaussians).parse_args(given)
    try:
        return int(args.run(args))
    except (TableError, EMError, OSError) as error:
        print(f"{PROG}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROG}: interrupted", file=sys.stderr)
        return 130


def _demo(args: Namespace) -> int:
    return demo.run(args.out, progress=_watched())


def _coins(args: Namespace) -> int:
    return _fit(_coin_problem(args), args)


def _gaussians(args: Namespace) -> int:
    return _fit(_gaussian_problem(args), args)


def _race_coins(args: Namespace) -> int:
    return _race(_coin_problem(args), args)


def _race_gaussians(args: Namespace) -> int:
    return _race(_gaussian_problem(args), args)


def _race(problem: Problem, args: Namespace) -> int:
    return race(problem.title, problem.model, problem.args, {}, args)


def _coin_problem(args: Namespace) -> Problem:
    options = {"columns": args.columns, "components": args.components, "equal_weights": args.equal_weights}
    return coin_problem(_table(args, "coins"), **options)


def _gaussian_problem(args: Namespace) -> Problem:
    options = {"columns": args.columns, "components": args.components, "covariance": args.covariance}
    return gaussian_problem(_table(args, "faithful"), **options)


def _table(args: Namespace, name: str) -> Table:
    return bundled(name) if args.data is None else read(args.data)


def _fit(problem: Problem, args: Namespace) -> int:
    options = {"starts": args.starts, "seed": args.seed, "tol": args.tol, "max_steps": args.max_steps}
    run = solve(problem, **options, progress=_watched())
    print(problem.title, run.plan, run.fit, sep="\n\n")
    if args.plot:
        picture(args.plot, lambda ax: problem.draw(run.fit, run.history, ax))
        print(f"\nPicture: {args.plot}")
    if args.json:
        save_json(args.json, problem, run.fit)
        print(f"\nAnswer: {args.json}")
    return 0 if run.fit.converged else 1


def _watched() -> bool:
    """Whether somebody sees a progress bar."""
    return sys.stderr.isatty()
