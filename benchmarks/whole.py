"""What a fit costs beside its steps: planning programs of many sites, and whole fits of two mixtures."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from .process import answer, call, cpu_seconds

REPEATS = 5  # of which the fastest counts; the first of the process pays for what is made once
NATS_A_ROW = 1e-3  # scikit-learn's tolerance
AGREE = 1e-2  # of a nat a row: the two stop by rules of their own
CLUSTERS, ROWS = 3, 150
TAILS_ROWS, TAILS_TOL = 20_000, 1e-8

PROGRAMS = {
    "sites": "200 Bernoulli sites, a parameter each",
    "markov": "pyro.markov, 1000 steps",
    "mixed": "120 sites of six families",
}


def compare() -> dict[str, Any]:
    """Measure all, in processes of their own.

    Raises:
        AssertionError: em_pyro and scikit-learn end at different mixtures, or em_pyro and ECME by hand.
    """
    planned = {name: {"title": title, **call("benchmarks.whole", name)} for name, title in PROGRAMS.items()}
    fitted = {who: call("benchmarks.whole", who) for who in ("em_pyro", "scikit-learn")}
    if not any("failed" in part for part in fitted.values()):
        ours, theirs = (part["log_likelihood"] for part in fitted.values())
        if abs(ours - theirs) > AGREE * ROWS:
            raise AssertionError(f"small mixture: em_pyro ends at {ours:.10g}, scikit-learn at {theirs:.10g}.")
    tails = {who: call("benchmarks.whole", who) for who in ("tails", "tails by hand")}
    if not any("failed" in part for part in tails.values()):
        ours, theirs = (part["log_likelihood"] for part in tails.values())
        if abs(ours - theirs) > 10 * TAILS_TOL * abs(ours):
            raise AssertionError(f"Student mixture: em_pyro ends at {ours:.10g}, ECME by hand at {theirs:.10g}.")
    return {"planned": planned, "fitted": fitted, "tails": tails}


# ---- planning ----


def program(name: str) -> tuple[Callable[..., None], Any]:
    """Return a model and its data."""
    import torch

    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    if name == "markov":
        return _markov, torch.randn(1000)
    return (_sites, torch.bernoulli(torch.rand(100, 200))) if name == "sites" else (_mixed, torch.randn(100, 120))


def _sites(x: Any) -> None:
    import pyro
    import pyro.distributions as dist
    import torch
    from torch.distributions import constraints

    weights = pyro.param("weights", torch.tensor([0.4, 0.6]), constraint=constraints.simplex)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        for k in range(x.shape[1]):
            start = torch.tensor([0.3, 0.6]) + 0.001 * (k % 50)
            p = pyro.param(f"p{k}", start, constraint=constraints.unit_interval)
            pyro.sample(f"x{k}", dist.Bernoulli(p[z]), obs=x[:, k])


def _markov(x: Any) -> None:
    import pyro
    import pyro.distributions as dist
    import torch
    from pyro.ops.indexing import Vindex
    from torch.distributions import constraints

    initial = pyro.param("initial", torch.tensor([0.4, 0.6]), constraint=constraints.simplex)
    moves = pyro.param("moves", torch.tensor([[0.7, 0.3], [0.2, 0.8]]), constraint=constraints.simplex)
    loc = pyro.param("loc", torch.tensor([-1.0, 1.0]))
    z = None
    for t in pyro.markov(range(len(x))):
        z = pyro.sample(f"z{t}", dist.Categorical(initial if z is None else Vindex(moves)[z]))
        pyro.sample(f"x{t}", dist.Normal(loc[z], 1.0), obs=x[t])


def _mixed(x: Any) -> None:
    import pyro
    import pyro.distributions as dist
    import torch
    from torch.distributions import constraints

    def positive(name: str, low: float, high: float) -> Any:
        return pyro.param(name, torch.tensor([low, high]), constraint=constraints.positive)[z]

    weights = pyro.param("weights", torch.tensor([0.4, 0.6]), constraint=constraints.simplex)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        for k in range(0, x.shape[1], 6):
            y = x[:, k : k + 6]
            loc = pyro.param(f"loc{k}", torch.tensor([-0.5, 0.5]))[z]
            pyro.sample(f"x{k}", dist.Normal(loc, positive(f"scale{k}", 1.0, 1.2)), obs=y[:, 0])
            pyro.sample(f"x{k + 1}", dist.Poisson(positive(f"rate{k}", 1.0, 2.0)), obs=y[:, 1].abs().round())
            unit = pyro.param(f"unit{k}", torch.tensor([0.3, 0.6]), constraint=constraints.unit_interval)
            pyro.sample(f"x{k + 2}", dist.Bernoulli(unit[z]), obs=(y[:, 2] > 0).double())
            shape, tempo = positive(f"shape{k}", 1.0, 2.0), positive(f"tempo{k}", 1.0, 1.5)
            pyro.sample(f"x{k + 3}", dist.Gamma(shape, tempo), obs=y[:, 3].abs() + 0.1)
            table = torch.tensor([[0.3, 0.3, 0.4], [0.5, 0.3, 0.2]])
            table = pyro.param(f"table{k}", table, constraint=constraints.simplex)
            pyro.sample(f"x{k + 4}", dist.Categorical(table[z]), obs=(y[:, 4] > 0).long() + (y[:, 4] > 1).long())
            pyro.sample(f"x{k + 5}", dist.Exponential(positive(f"pace{k}", 1.0, 2.0)), obs=y[:, 5].abs() + 0.1)


def planned(name: str) -> dict[str, Any]:
    """Plan a program several times, from an empty store."""
    import pyro

    from em_pyro import EM

    model, x = program(name)
    spent = []
    for _ in range(REPEATS):
        pyro.clear_param_store()
        began = cpu_seconds()
        EM(model).plan(x)
        spent.append(cpu_seconds() - began)
    return {"seconds": min(spent)}


# ---- a small mixture, from the start to the answer ----


def small() -> tuple[Any, Any]:
    """Return 150 rows of four measurements in three groups of which two overlap, and three rows to start from."""
    rng = np.random.default_rng(0)
    centre = np.array([[5.0, 3.4, 1.5, 0.2], [5.9, 2.8, 4.3, 1.3], [6.6, 3.0, 5.6, 2.0]])
    x = centre.repeat(ROWS // CLUSTERS, 0) + 0.4 * rng.standard_normal((ROWS, 4)) @ (0.5 + 0.5 * np.eye(4))
    return x, x[[0, ROWS // 2, ROWS - 1]]


def ours() -> dict[str, Any]:
    """Fit by default, without the checks of the program, and once more by the same EM."""
    import pyro
    import torch
    from em_pyro.models import gaussian_mixture

    from em_pyro import EM

    rows, loc = small()
    x = torch.as_tensor(rows)
    start = {
        "weights": torch.full((CLUSTERS,), 1 / CLUSTERS, dtype=x.dtype),
        "loc": torch.as_tensor(loc),
        "scale_tril": torch.diag_embed(x.std(0).expand(CLUSTERS, -1)),
    }
    spent: dict[str, list[float]] = {"default": [], "unchecked": [], "again": []}
    for _ in range(REPEATS):
        for check in (True, False):
            pyro.clear_param_store()
            began = cpu_seconds()
            em = EM(gaussian_mixture.full, starts=start, check=check, tol=NATS_A_ROW / 2)
            fit = em.fit(x, CLUSTERS)
            spent["default" if check else "unchecked"].append(cpu_seconds() - began)
        began = cpu_seconds()
        em.fit(x, CLUSTERS)
        spent["again"].append(cpu_seconds() - began)
    return {**{name: 1e3 * min(all_) for name, all_ in spent.items()}, "log_likelihood": fit.log_likelihood}


def sklearn() -> dict[str, Any]:
    """Fit `GaussianMixture` from the same rows."""
    from sklearn.mixture import GaussianMixture

    x, loc = small()
    precision = np.tile(np.diag(1 / x.var(0)), (CLUSTERS, 1, 1))
    spent = []
    for _ in range(REPEATS):
        began = cpu_seconds()
        mixture = GaussianMixture(
            CLUSTERS,
            tol=NATS_A_ROW,
            weights_init=np.full(CLUSTERS, 1 / CLUSTERS),
            means_init=loc,
            precisions_init=precision,
        ).fit(x)
        spent.append(cpu_seconds() - began)
    return {"default": 1e3 * min(spent), "log_likelihood": float(mixture.score(x)) * len(x)}


# ---- a mixture with heavy tails ----


def heavy() -> tuple[Any, dict[str, Any]]:
    """Return rows of three Student distributions, and where to start."""
    rng = np.random.default_rng(0)
    z = rng.integers(3, size=TAILS_ROWS)
    x = np.array([-6.0, 0.0, 5.0])[z] + np.array([1.0, 0.7, 1.5])[z] * rng.standard_t(np.array([3.0, 5.0, 8.0])[z])
    start = {"weights": np.full(3, 1 / 3), "df": np.full(3, 4.0), "loc": np.array([-5.0, 0.0, 4.0])}
    return x, {**start, "scale": np.ones(3)}


def tails() -> dict[str, Any]:
    """Fit it by default, planning and closer look included."""
    import pyro
    import torch
    from em_pyro.models import heavy_tailed

    from em_pyro import EM

    rows, start = heavy()
    spent = []
    for _ in range(REPEATS):
        pyro.clear_param_store()
        em = EM(heavy_tailed.student, starts={n: torch.as_tensor(v) for n, v in start.items()}, tol=TAILS_TOL)
        began = cpu_seconds()
        fit = em.fit(torch.as_tensor(rows), 3)
        spent.append(cpu_seconds() - began)
    return {"default": 1e3 * min(spent), "log_likelihood": fit.log_likelihood}


def tails_by_hand() -> dict[str, Any]:
    """Fit it by ECME in NumPy."""
    from .by_hand import ecme

    x, start = heavy()
    spent = []
    for _ in range(REPEATS):
        began = cpu_seconds()
        found = ecme(x, start, TAILS_TOL)
        spent.append(cpu_seconds() - began)
    return {"default": 1e3 * min(spent), "log_likelihood": found}


FITS = {"em_pyro": ours, "scikit-learn": sklearn, "tails": tails, "tails by hand": tails_by_hand}


def main() -> None:
    """Measure one of them in this process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("which", choices=[*PROGRAMS, *FITS])
    which = parser.parse_args().which
    answer(planned(which) if which in PROGRAMS else FITS[which]())


if __name__ == "__main__":
    main()
