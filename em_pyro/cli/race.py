"""The command `compare`: race EM, SVI and L-BFGS on a problem of the command line."""

from __future__ import annotations

from argparse import Namespace

from ..compare import race as run
from .problems import Problem


def race(problem: Problem, args: Namespace) -> int:
    """Race, print the table, draw and save what was asked for; 1 if the best known is not a tested maximum."""
    options = {"starts": args.starts, "seed": args.seed, "budget_seconds": args.budget}
    print(problem.title)
    found = run(problem.model, *problem.args, **options)
    print(f"\n{found}")
    if args.plot:
        found.plot().savefig(args.plot, dpi=150)
        print(f"\nPicture: {args.plot}")
    if args.csv:
        found.to_csv(args.csv)
        print(f"\nEvery step: {args.csv}")
    return 0 if found.best.tested else 1
