"""The demonstration: exact EM on a Pyro program beside EM derived by hand, on data that everybody knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .. import analytic, plotting
from ..records.frozen import frozen
from .problems import Params, Problem, bundled, coin_problem, covariances, gaussian_problem
from .runs import Run, picture, solve

Array = npt.NDArray[np.float64]

CLOSE = 1e-12
"""The tolerance of the fits: the tables show more digits than the default one settles."""

AGREEMENT = 1e-10
"""Two ways to the same number differ by less than this, relative to one plus the number."""


@frozen
class Chapter:
    """A problem, the same EM by hand, and what is in print.

    Attributes:
        title: heads the chapter.
        name: begins the names of its pictures.
        problem: model and data.
        by_hand: `(start, steps)` to the path of the hand-derived EM, with parameters of the names of `translate`.
        translate: the fit's parameters in the names and forms of the hand-derived EM.
        starts: where to start, for parameters that do not start at the model's own values.
        published: values as printed, by the label of their row.
        source: of the published values.
    """

    title: str
    name: str
    problem: Problem
    by_hand: Callable[[Mapping[str, Array], int], analytic.ParameterPath]
    translate: Callable[[Params], dict[str, Tensor]]
    source: str
    published: Mapping[str, str]
    starts: Mapping[str, Tensor] = field(default_factory=dict)


def chapters() -> Iterator[Chapter]:
    """Yield the chapters of the demonstration."""
    coins = coin_problem(bundled("coins"), equal_weights=True)
    heads, flips = (_array(value) for value in coins.args)
    yield Chapter(
        "Two coins: five sequences of ten tosses",
        "coins",
        coins,
        lambda start, steps: analytic.coin_mixture(
            heads, flips, start["bias"], [0.5, 0.5], steps=steps, estimate_weights=False
        ),
        lambda params: {"bias": params["bias"]},
        "Do & Batzoglou (2008), Nature Biotechnology 26, 897-899, figure 1b",
        {"bias[0]": "0.80", "bias[1]": "0.52"},
        {"bias": torch.tensor([0.6, 0.5], dtype=torch.float64)},
    )
    faithful = bundled("faithful")
    plane = gaussian_problem(faithful)
    points = _array(plane.args[0])
    yield Chapter(
        "Old Faithful: 272 eruptions, two clusters of any shape",
        "faithful",
        plane,
        lambda start, steps: analytic.gaussian_mixture(
            points, start["means"], start["covariances"], start["weights"], steps=steps
        ),
        lambda params: {"weights": params["weights"], "means": params["loc"], "covariances": covariances(params)},
        "mclust, model VVV with two components (Scrucca et al., 2016, The R Journal 8, 289-317)",
        {"log-likelihood": "-1130.264"},
    )
    line = gaussian_problem(faithful, columns=["waiting"])
    minutes = _array(line.args[0])
    yield Chapter(
        "Old Faithful: the waiting times alone",
        "waiting",
        line,
        lambda start, steps: analytic.normal_mixture(
            minutes, start["means"], start["sds"], start["weights"], steps=steps
        ),
        lambda params: {"weights": params["weights"], "means": params["loc"], "sds": params["scale"]},
        "",
        {},
    )


def run(folder: Path, *, progress: bool) -> int:
    """Print the demonstration and draw its pictures into `folder`, made if need be.

    Returns:
        0, or 1 if a fit did not converge or left the path of the hand-derived EM.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sound = True
    for chapter in chapters():
        solved = solve(chapter.problem, starts=chapter.starts or 1, tol=CLOSE, progress=progress)
        path, difference = compare(chapter, solved)
        _tell(chapter, solved, path, difference)
        sound = sound and solved.fit.converged and difference < AGREEMENT
        picture(folder / f"{chapter.name}.png", partial(chapter.problem.draw, solved.fit, solved.history))
        picture(folder / f"{chapter.name}_path.png", partial(plotting.objective_path, solved.fit))
    print(f"Pictures: {', '.join(sorted(file.name for file in folder.glob('*.png')))} in {folder.resolve()}")
    return 0 if sound else 1


def compare(chapter: Chapter, solved: Run) -> tuple[analytic.ParameterPath, float]:
    """Run EM by hand from the same start for as many steps.

    Returns:
        Its path, and the largest difference in any parameter at any step, relative to one plus its size.
    """
    history = [{name: _array(value) for name, value in chapter.translate(params).items()} for params in solved.history]
    path = chapter.by_hand(history[0], len(history) - 1)
    gaps = (
        np.abs(ours - path.at(step)[name]) / (1 + np.abs(path.at(step)[name]))
        for step, params in enumerate(history)
        for name, ours in params.items()
    )
    return path, max(float(gap.max()) for gap in gaps)


def _tell(chapter: Chapter, solved: Run, path: analytic.ParameterPath, difference: float) -> None:
    rule = "=" * len(chapter.title)
    print(rule, chapter.title, rule, "", solved.plan, "", sep="\n")
    printed = "published" if chapter.published else ""
    print(f"{'':22}{'em_pyro':>17}{'EM by hand':>17}{printed:>13}".rstrip())
    ours = {name: _array(value) for name, value in chapter.translate(solved.fit.params).items()}
    rows = [(label, ours[name][i], path.at(-1)[name][i]) for name in ours for label, i in _labels(name, ours[name])]
    rows.append(("log-likelihood", np.float64(solved.fit.log_likelihood), path.log_likelihood[-1]))
    for label, here, there in rows:
        print(f"{label:22}{here:17.10f}{there:17.10f}{chapter.published.get(label, ''):>13}".rstrip())
    if chapter.source:
        print(f"\nPublished: {chapter.source}.")
    print(f"\nThe fit: {solved.fit.outcome} after {solved.fit.num_steps} steps.")
    print(f"Largest difference from EM by hand, over all parameters and steps: {difference:.1e}\n")


def _labels(name: str, value: Array) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name the entries of a parameter; of symmetric matrices the lower triangle."""
    for index in np.ndindex(value.shape):
        if name != "covariances" or index[-1] <= index[-2]:
            yield f"{name}[{', '.join(map(str, index))}]", index


def _array(value: Tensor) -> Array:
    return np.asarray(value.detach(), dtype=np.float64)
