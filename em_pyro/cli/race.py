"""The command `compare`: race EM, SVI and L-BFGS on a problem of the command line."""

from __future__ import annotations

from argparse import Namespace

from pyro.optim import Adam  # type: ignore[attr-defined]  # pyro.optim makes its classes when imported

from ..compare import Contender, compare, em, lbfgs, svi
from .problems import Problem


def contenders() -> dict[str, Contender]:
    """Return those who run: EM, plain and accelerated, Adam at two rates, and L-BFGS."""
    return {
        "EM": em(acceleration=None),
        "EM + SQUAREM": em(acceleration="squarem"),
        "SVI Adam 0.01": svi(Adam({"lr": 0.01})),
        "SVI Adam 0.1": svi(Adam({"lr": 0.1})),
        "L-BFGS": lbfgs(),
    }


def race(problem: Problem, args: Namespace) -> int:
    """Race, print the table, draw and save what was asked for; 1 if the best known is not a tested maximum."""
    options = {"starts": args.starts, "seed": args.seed, "budget_seconds": args.budget}
    print(problem.title)
    found = compare(problem.model, args=problem.args, contenders=contenders(), **options)
    print(f"\n{found}")
    if args.plot:
        found.plot().savefig(args.plot, dpi=150)
        print(f"\nPicture: {args.plot}")
    if args.csv:
        found.to_csv(args.csv)
        print(f"\nEvery step: {args.csv}")
    return 0 if found.best.tested else 1
