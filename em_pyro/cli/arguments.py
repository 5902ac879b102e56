"""Read the command line and do what it says."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import EMError
from . import demo
from .problems import MIXTURES, Problem, bundled, coin_problem, gaussian_problem
from .runs import picture, save_json, solve
from .tables import TableError, read

ABOUT = """\
Fit a model with latent variables by exact Expectation-Maximisation.

Without a command this is a demonstration: it fits two classic data sets, shows the
answers beside those of EM derived by hand and those in print, and draws pictures.
With one it fits a model to your own numbers.
"""

EXAMPLES = """\
examples:
  python -m em_pyro
        the demonstration; pictures go to the folder out
  python -m em_pyro coins --data tosses.csv --plot weights.png
        which of two coins made each sequence of tosses?
  python -m em_pyro gaussians --data points.csv --components 3 --starts 20
        three clusters; the best of twenty starts
  python -m em_pyro gaussians --data people.csv --columns height,weight --json fit.json
        clusters in two columns of a table, saved for another program

exit status: 0 if all went well, 1 if a fit did not converge (or the demonstration
found a difference), 2 if the command or the file could not be used.
"""

TABLE = """\
FILE.csv holds one {row} a line, cells separated by commas, semicolons or tabs. A first
line without numbers is a header.{columns}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, that of the process if none is given, and return its exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    args = parser.parse_args(given or ["demo"])
    try:
        return int(args.run(args))
    except (TableError, EMError, OSError) as error:
        print(f"{parser.prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    shape: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser("python -m em_pyro", description=ABOUT, epilog=EXAMPLES, **shape)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    about = "fit coins and Old Faithful, and compare with EM by hand (what happens without a command)"
    show = commands.add_parser("demo", help=about, description=about[0].upper() + about[1:] + ".", **shape)
    show.add_argument("--out", type=Path, default=Path("out"), metavar="FOLDER", help="for the pictures (default: out)")
    show.set_defaults(run=lambda args: demo.run(args.out, progress=sys.stderr.isatty()))

    about = "which coin made each sequence of tosses, and how biased are they?"
    columns = ' The columns are called "heads" and "flips" (or\n"tosses", or "n"); without a header they are the only two, in this order.'
    epilog = TABLE.format(row="sequence of tosses", columns=columns)
    tossed = commands.add_parser("coins", help=about, description=about[0].upper() + about[1:], epilog=epilog, **shape)
    _options(tossed, "Do & Batzoglou's five sequences", "the columns of heads and of tosses", "coins")
    tossed.add_argument("--equal-weights", action="store_true", help="each coin is picked equally often, and that is known")
    tossed.set_defaults(run=lambda args: _fit(_coins(args), args))

    about = "clusters: a mixture of Gaussians in one dimension or more"
    epilog = TABLE.format(row="point", columns=" Every column is a coordinate\nunless --columns chooses.")
    cloud = commands.add_parser("gaussians", help=about, description=about[0].upper() + about[1:] + ".", epilog=epilog, **shape)
    _options(cloud, "eruptions of Old Faithful", "the columns to use", "Gaussians")
    cloud.add_argument("--covariance", choices=list(MIXTURES), default="full", help="what each may look like: any ellipse (full), all the same ellipse (tied), along the axes (diagonal), round (spherical); default: full. In one dimension only tied, one width for all, differs from the others")
    cloud.set_defaults(run=lambda args: _fit(_gaussians(args), args))
    return parser


def _options(parser: argparse.ArgumentParser, example: str, columns: str, what: str) -> None:
    add = parser.add_argument
    add("--data", type=Path, metavar="FILE.csv", help=f"what to fit (default: {example})")
    add("--columns", type=lambda text: text.split(","), metavar="A,B", help=f"{columns}, by name or number")
    add("--components", type=_positive, default=2, metavar="K", help=f"how many {what} (default: 2)")
    add("--starts", type=_positive, default=1, metavar="N", help="try N starting points and keep the best (default: 1)")
    add("--seed", type=int, default=0, metavar="S", help="of the random starting points (default: 0)")
    add("--tol", type=_tolerance, metavar="T", help="stop when the gain left is below T relative to the log-likelihood (default: 1e-8)")
    add("--max-steps", type=_positive, metavar="N", help="give up after N steps")
    add("--plot", type=_picture, metavar="FILE.png", help="draw the fit (png, pdf or svg)")
    add("--json", type=_writable, metavar="FILE.json", help="save the answer for another program")
