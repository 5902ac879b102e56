"""The options of the commands for a model of the user's own."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path
from typing import Any

from ..selection.selection import NAMES as CRITERIA
from . import own
from .types import names, picture, positive, seconds, separator, tolerance, writable

MODEL = """\
MODEL is FILE.py:NAME, a function in a Python file. The file is a program: it is run. DATA is a
table, CSV or parquet, which pandas reads: pip install 'em-pyro[data]'. Arguments of the
function that are named after columns are given these; a function with one other argument is
given all columns, as a matrix. Numbers are torch.float64, which is the default type meanwhile.
"""

LABEL = """\
Write what the posterior says of every row: for each discrete latent its most probable state,
and the probabilities of all of them. FIT is a file that `em-pyro fit --save` wrote.
"""

SUMMARY = """\
Print the parameters, how the fit ended and its criteria. FIT is a file that `em-pyro fit --save`
or Fit.save wrote; it has no data, so that standard errors are those of `em-pyro fit --errors`.
"""

EXAMPLE = """\
example: two kinds of shops by the number of their visits. my_model.py is
    import pyro, pyro.distributions as dist, torch
    from torch.distributions import constraints

    def shops(visits, K=2):
        share = pyro.param("share", torch.ones(K) / K, constraint=constraints.simplex)
        rate = pyro.param("rate", torch.linspace(1.0, 9.0, K), constraint=constraints.positive)
        with pyro.plate("shops", len(visits)):
            kind = pyro.sample("kind", dist.Categorical(share))
            pyro.sample("visits", dist.Poisson(rate[kind]), obs=visits)
and visits.csv has a column "visits", and one "shop" that tells them apart:
    em-pyro fit my_model.py:shops visits.csv --id shop --starts 20 --set K=3 --save fit.pt
"""


ANSWER = "save the answer for another program; - is standard output"


def add(commands: Any, page: dict[str, Any]) -> None:
    """Add the commands to those of the root."""
    fit = _posed(commands, "fit", "fit a model of your own", {**page, "epilog": EXAMPLE})
    _fitting(fit)
    fit.add_argument("--errors", action="store_true", help="print standard errors and intervals")
    fit.add_argument("--save", type=writable, metavar="FIT.pt", help="save the fit, for label, summary and Python")
    fit.add_argument("--json", type=writable, metavar="FILE.json", help=ANSWER)
    fit.set_defaults(run=own.fit)

    _posed(commands, "plan", "say how a model of your own would be fitted", page).set_defaults(run=own.plan)

    choose = _posed(commands, "select", "fit once for every value of an argument, and compare", page)
    _fitting(choose, starts=10)
    text = "values of an argument: K=1:8, both ends included, or shape=full,tied"
    choose.add_argument("--over", type=_over, required=True, metavar="NAME=VALUES", help=text)
    choose.add_argument("--criterion", choices=list(CRITERIA), default="bic", help="by which to choose (default: bic)")
    choose.add_argument("--json", type=writable, metavar="FILE.json", help=ANSWER)
    choose.set_defaults(run=own.choose)

    label = commands.add_parser(
        "label", help="the posterior of new rows, by a fit that was saved", description=LABEL, **page
    )
    label.add_argument("data", type=Path, metavar="DATA", help="rows like those that were fitted")
    label.add_argument("--fit", type=Path, required=True, metavar="FIT.pt", help="a fit")
    label.add_argument("--output", type=writable, required=True, metavar="FILE.csv", help="where to write")
    label.add_argument("--model", metavar="MODEL", help="FILE.py:NAME, if the file has moved")
    _table(label)
    label.set_defaults(run=own.label)

    summary = commands.add_parser("summary", help="print a fit that was saved", description=SUMMARY, **page)
    summary.add_argument("fit", type=Path, metavar="FIT.pt", help="a fit")
    summary.add_argument("--json", type=writable, metavar="FILE.json", help=ANSWER)
    summary.set_defaults(run=own.summary)


def race(models: Any, page: dict[str, Any]) -> None:
    """Add the race on a model of the user's own."""
    command = _posed(models, "model", "a model of your own: compare model FILE.py:NAME DATA", page)
    command.add_argument("--starts", type=positive, default=5, metavar="N", help="starting points (default: 5)")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="for the random ones (default: 0)")
    text = "seconds for each method and start (default: 2)"
    command.add_argument("--budget", type=seconds, default=2.0, metavar="T", help=text)
    command.add_argument("--plot", type=picture, metavar="FILE.png", help="draw the race (.png, .pdf or .svg)")
    command.add_argument("--csv", type=writable, metavar="FILE.csv", help="save every step")
    command.set_defaults(run=own.compare)


def _posed(commands: Any, name: str, text: str, page: dict[str, Any]) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=MODEL, **page)
    command.add_argument("model", metavar="MODEL", help="FILE.py:NAME")
    command.add_argument("data", type=Path, metavar="DATA", help="a table, CSV or parquet")
    _table(command)
    return command


def _table(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--set", action=_Settings, default={}, type=_setting, metavar="NAME=VALUE", help="an argument of the model")
    add("--columns", type=names, metavar="A,B,C", help="which columns to use (default: all but --id)")
    add("--integers", type=names, metavar="A,B", help="columns of whole numbers, to index with")
    layout(command)


def layout(command: Any) -> None:
    """Add what tells how a table is written down."""
    add = command.add_argument
    add("--id", metavar="COLUMN", help="a column that tells rows apart: kept in what is written, not fitted")
    text = "between cells, if it is not a comma, semicolon or tab; a blank stands for any number of them"
    add("--separator", type=separator, metavar="CHAR", help=text)
    add("--decimal", choices=[".", ","], default=".", metavar="MARK", help="in numbers, . or , (default: .)")


def _fitting(command: argparse.ArgumentParser, starts: int = 1) -> None:
    add = command.add_argument
    add("--starts", type=positive, default=starts, metavar="N", help=f"the best of N starts (default: {starts})")
    add("--seed", type=int, default=0, metavar="S", help="for the random ones among them (default: 0)")
    text = "converged when the gain still expected, relative to the log-likelihood, is below T (default: 1e-8)"
    add("--tol", type=tolerance, default=1e-8, metavar="T", help=text)
    add("--max-steps", type=positive, default=1000, metavar="N", help="give up after N steps (default: 1000)")


class _Settings(argparse.Action):
    """Collect what is set, each time in a dict of its own."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Add one."""
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), values[0]: values[1]})


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE such as K=3, got {text!r}")
    return name, _value(value)


def _over(text: str) -> tuple[str, list[Any]]:
    name, values = _setting(text)
    if isinstance(values, str) and values.count(":") == 1 and all(p.isdecimal() for p in values.split(":")):
        first, last = map(int, values.split(":"))
        if first <= last:
            return name, list(range(first, last + 1))
        raise argparse.ArgumentTypeError(f"expected a range that goes up, got {text!r}")
    several = [_value(part) for part in text.partition("=")[2].split(",") if part]
    if not several:
        raise argparse.ArgumentTypeError(f"expected values such as K=1:8 or K=2,3, got {text!r}")
    return name, several


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
