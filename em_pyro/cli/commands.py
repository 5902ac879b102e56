"""Do what the command line says."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence

import torch

from ..errors import EMError
from . import demo
from .answers import report, save
from .arguments import PROG, parser
from .model_file import raised_in
from .problems import Problem, bundled, coin_problem, gaussian_problem
from .race import race
from .runs import answer, picture, solve
from .tables import Table, TableError, read


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, that of the process if none is given, and return its exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0].startswith("--out"):
        given = ["demo", *given]
    if given[0] == "compare" and len(given) > 1 and ".py:" in given[1]:
        given.insert(1, "model")
    args = parser(_demo, _coins, _gaussians, _race_coins, _race_gaussians).parse_args(given)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # as the columns are that a model is given
    try:
        return int(args.run(args))
    except BrokenPipeError:  # whoever read the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (TableError, EMError) as error:
        return _refused(str(error))
    except OSError as error:
        return _refused(f"{error.filename}: {error.strerror}." if error.filename else str(error))
    except Exception as error:
        where = raised_in(error)
        if not where:  # a mistake of ours, which wants its traceback
            raise
        return _refused(f"{where}: expected a model that runs, got {type(error).__name__}: {error}")
    except KeyboardInterrupt:
        print(f"{PROG}: interrupted", file=sys.stderr)
        return 130
    finally:
        torch.set_default_dtype(usual)


def _refused(text: str) -> int:
    print(f"{PROG}: error: {' '.join(text.split())}", file=sys.stderr)
    return 2


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
    options["key"] = args.id
    return coin_problem(_table(args, "coins"), **options)


def _gaussian_problem(args: Namespace) -> Problem:
    options = {"columns": args.columns, "components": args.components, "covariance": args.covariance}
    options["key"] = args.id
    return gaussian_problem(_table(args, "faithful"), **options)


def _table(args: Namespace, name: str) -> Table:
    if args.data is None:
        return bundled(name)
    return read(args.data, separator=args.separator, decimal=args.decimal)


def _fit(problem: Problem, args: Namespace) -> int:
    options = {"starts": args.starts, "seed": args.seed, "tol": args.tol, "max_steps": args.max_steps}
    run = solve(problem, **options, progress=_watched())
    with report(args.json):
        print(problem.title, run.plan, run.fit, sep="\n\n")
        if args.plot:
            picture(args.plot, lambda ax: problem.draw(run.fit, run.history, ax))
            print(f"\nPicture: {args.plot}")
    if args.json:
        save(args.json, answer(problem, run.fit))
    return 0 if run.fit.converged else 1


def _watched() -> bool:
    """Whether somebody sees a progress bar."""
    return sys.stderr.isatty()
