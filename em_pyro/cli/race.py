"""The command `compare`: race EM, SVI and L-BFGS on a model and its data."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any

from ..compare import race as run


def race(
    title: str, model: Callable[..., Any], given: tuple[Any, ...], named: Mapping[str, Any], args: Namespace
) -> int:
    """Race, print the table, draw and save what was asked for; 1 if the best known is not a tested maximum."""
    options: dict[str, Any] = {"starts": args.starts, "seed": args.seed, "budget_seconds": args.budget}
    print(title)
    found = run(model, *given, kwargs=named, **options)
    print(f"\n{found}")
    if args.plot:
        found.plot().savefig(args.plot, dpi=150)
        print(f"\nPicture: {args.plot}")
    if args.csv:
        found.to_csv(args.csv)
        print(f"\nEvery step: {args.csv}")
    return 0 if found.best.tested else 1
