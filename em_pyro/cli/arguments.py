"""The options of the command line, and the page that `--help` prints."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from .. import __version__
from . import own_arguments
from .own_arguments import ANSWER
from .problems import MIXTURES
from .types import names, picture, positive, seconds, tolerance, writable

Command = Callable[[argparse.Namespace], int]

PROG = "em-pyro"

ABOUT = """\
Fit a model with latent variables by exact Expectation-Maximisation.

Without a command this is a demonstration: it fits two classic data sets, shows the
answers beside those of EM derived by hand and those in print, and draws pictures.
With a command it fits a model to your own numbers.
"""

EXAMPLES = """\
examples:
  em-pyro --out pictures
      the demonstration; without --out its pictures go to the folder out
  em-pyro coins --data tosses.csv --plot weights.png
      which of two coins made each sequence of tosses?
  em-pyro gaussians --data points.csv --components 3 --starts 20
      three clusters, the best of twenty starts
  em-pyro gaussians --data people.csv --columns height,weight --json fit.json
      clusters in two columns of a table, saved for another program
  em-pyro fit my_model.py:mixture points.csv --set K=3 --starts 20 --save fit.pt
      a model of your own, a function in a file, on the columns of a table
  em-pyro select my_model.py:mixture points.csv --over K=1:8
      how many components?
  em-pyro label new.csv --fit fit.pt --output labels.csv
      which component is each new row of?
  em-pyro compare gaussians --data points.csv --components 3 --plot race.png
      how fast do EM, stochastic variational inference and L-BFGS get there?

exit status:
  0 if all went well, 1 if a fit did not converge or the demonstration found a
  difference, or a comparison no maximum, 2 if the command or the file could not be used
"""

COINS = """\
You tossed one of K coins a number of times, wrote down the heads, put it back, and did so
again and again; you did not write down which coin it was. How biased is each, and which
was it each time?

FILE.csv has a line for each such sequence, with the number of heads and the number of
tosses, in columns called "heads" and "flips" (or "tosses", or "n"). A file without a
header has just these two columns, in this order.
"""

GAUSSIANS = """\
Your points come from K clusters, each a Gaussian. Where are they, how wide, how large, and
which points belong to which?

FILE.csv has a line for each point. Every column is a coordinate unless --columns says
otherwise; a first line without a number in it is a header. One column gives a mixture
on the line.
"""

COMPARE = """\
Fit the same model to the same data from the same starts by EM, by EM with SQUAREM, by
stochastic variational inference with Adam at two rates, and by L-BFGS; say how close each
came to the best answer known, in how many steps and seconds.
"""

COVARIANCE = """\
what the clusters look like: full, each its own ellipse (the default); tied, all the same
ellipse; diagonal, ellipses along the axes; spherical, circles. On the line, tied is one
width for all, and the others are the same
"""


def parser(
    demo: Command, coins: Command, gaussians: Command, race_coins: Command, race_gaussians: Command
) -> argparse.ArgumentParser:
    """Return the parser; what it parses has `run`, one of the functions given."""
    shape = partial(argparse.RawDescriptionHelpFormatter, max_help_position=26)
    page: dict[str, Any] = {"formatter_class": shape}
    root = argparse.ArgumentParser(PROG, description=ABOUT, epilog=EXAMPLES, **page)
    root.add_argument("-V", "--version", action="version", version=f"{PROG} {__version__}")
    commands = root.add_subparsers(title="commands", metavar="COMMAND", required=True)

    text = "fit coins and Old Faithful and compare with EM by hand; the same as no command"
    show = commands.add_parser("demo", help=text, description=ABOUT, **page)
    show.add_argument("--out", type=Path, default=Path("out"), metavar="FOLDER", help="for pictures (default: out)")
    show.set_defaults(run=demo)

    tossed = commands.add_parser(
        "coins", help="which coin was tossed, and how biased is it?", description=COINS, **page
    )
    _shared(tossed, "coins", "five sequences of Do & Batzoglou", "HEADS,FLIPS")
    tossed.add_argument("--equal-weights", action="store_true", help="all coins are known to be picked equally often")
    tossed.set_defaults(run=coins)

    cloud = commands.add_parser("gaussians", help="clusters in one dimension or more", description=GAUSSIANS, **page)
    _shared(cloud, "clusters", "eruptions of Old Faithful", "A,B,C")
    cloud.add_argument("--covariance", choices=list(MIXTURES), default="full", metavar="KIND", help=COVARIANCE)
    cloud.set_defaults(run=gaussians)

    own_arguments.add(commands, page)
    race = commands.add_parser("compare", help="race EM, SVI and L-BFGS on your data", description=COMPARE, **page)
    models = race.add_subparsers(title="models", metavar="MODEL", required=True)
    tossed = models.add_parser("coins", help="a mixture of coins", description=COINS, **page)
    _racing(tossed, "coins", "five sequences of Do & Batzoglou", "HEADS,FLIPS")
    tossed.add_argument("--equal-weights", action="store_true", help="all coins are known to be picked equally often")
    tossed.set_defaults(run=race_coins)
    cloud = models.add_parser("gaussians", help="a mixture of Gaussians", description=GAUSSIANS, **page)
    _racing(cloud, "clusters", "eruptions of Old Faithful", "A,B,C")
    cloud.add_argument("--covariance", choices=list(MIXTURES), default="full", metavar="KIND", help=COVARIANCE)
    cloud.set_defaults(run=race_gaussians)
    own_arguments.race(models, page)
    return root


def _shared(command: argparse.ArgumentParser, what: str, example: str, columns: str) -> None:
    add = command.add_argument
    _data(command, what, example, columns)
    add("--starts", type=positive, default=1, metavar="N", help="keep the best of N starting points (default: 1)")
    add("--seed", type=int, default=0, metavar="S", help="for the random ones among them (default: 0)")
    text = "converged when the gain still expected, relative to the log-likelihood, is below T (default: 1e-8)"
    add("--tol", type=tolerance, default=1e-8, metavar="T", help=text)
    add("--max-steps", type=positive, default=1000, metavar="N", help="give up after N steps (default: 1000)")
    add("--plot", type=picture, metavar="FILE.png", help="draw the answer (.png, .pdf or .svg)")
    add("--json", type=writable, metavar="FILE.json", help=ANSWER)


def _racing(command: argparse.ArgumentParser, what: str, example: str, columns: str) -> None:
    add = command.add_argument
    _data(command, what, example, columns)
    add("--starts", type=positive, default=5, metavar="N", help="race from N starting points (default: 5)")
    add("--seed", type=int, default=0, metavar="S", help="for the random ones among them (default: 0)")
    add("--budget", type=seconds, default=2.0, metavar="T", help="seconds for each method and start (default: 2)")
    add("--plot", type=picture, metavar="FILE.png", help="draw the race (.png, .pdf or .svg)")
    add("--csv", type=writable, metavar="FILE.csv", help="save every step")


def _data(command: argparse.ArgumentParser, what: str, example: str, columns: str) -> None:
    add = command.add_argument
    text = f"what to fit, CSV or parquet; pip install 'em-pyro[data]' brings what reads it (default: {example})"
    add("--data", type=Path, metavar="FILE.csv", help=text)
    add("--columns", type=names, metavar=columns, help="which columns to use, numbered from 1 if there is no header")
    own_arguments.layout(command)
    add("--components", type=positive, default=2, metavar="K", help=f"how many {what} (default: 2)")
