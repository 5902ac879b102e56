"""Programs some of whose parameters have no closed form: a step of EM beside a step of SVI, on the same model.

Both begin at the same values, and what is compared before any time is believed is the log evidence there: by
`TraceEnum_ELBO`, which is exact for a fully enumerated model, and by the E-step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .ours import Contender, Result, Run
from .problem import Array, Problem

RATE = 1e-3  # of Adam: a step costs the same at any
Model = Callable[..., None]
Made = tuple[Model, tuple[Any, ...], dict[str, Any]]
"""A model, its arguments, and the constraints of its parameters."""


def by_em(make: Callable[[Problem], Made]) -> Contender:
    """Steps of EM."""

    def contender(problem: Problem) -> Run:
        import pyro
        import torch

        from em_pyro import EM

        model, args, _ = make(problem)
        pyro.clear_param_store()
        em = EM(model, starts=_named(problem, torch.as_tensor), tol=0.0)

        def run(iterations: int) -> Result:
            em.max_steps = iterations
            fit = em.fit(*args)
            return Result(fit.path[0], fit.plan.seconds, str(fit.plan))

        return run

    return contender


def by_svi(make: Callable[[Problem], Made]) -> Contender:
    """Steps of Adam on `TraceEnum_ELBO`."""

    def contender(problem: Problem) -> Run:
        import pyro
        import torch
        from pyro.infer import SVI, TraceEnum_ELBO, config_enumerate
        from pyro.optim import Adam

        model, args, domains = make(problem)

        def nothing(*args: Any) -> None:
            """Nothing is left to guide: all latents are summed out."""

        def run(iterations: int) -> Result:
            pyro.clear_param_store()
            for name, value in _named(problem, torch.as_tensor).items():
                pyro.param(name, value.clone(), constraint=domains.get(name, torch.distributions.constraints.real))
            elbo = TraceEnum_ELBO(max_plate_nesting=1)
            svi = SVI(config_enumerate(model), nothing, Adam({"lr": RATE}), elbo)
            losses = [svi.step(*args) for _ in range(iterations)]
            return Result(-losses[0])

        return run

    return contender


def _named(problem: Problem, of: Callable[[Array], Any]) -> dict[str, Any]:
    """Starting values under the names of the model: a file name has no room for those of a module."""
    return {name.replace("net_", "net$$$").replace("_of_", "."): of(value) for name, value in problem.start.items()}


# ---- noisy-or --------------------------------------------------------------------------------------------------------


def symptoms(n: int, *, seed: int = 0) -> Problem:
    """Three hidden causes of four symptoms; most links are absent, so that their estimates go to zero.

    Returns:
        Rows `seen` `(n, 4)`; start `rate` `(3,)`, `link` `(4, 3)` and `leak` `()`.
    """
    rng = np.random.default_rng(seed)
    link = np.array([[0.8, 0.0, 0.0], [0.0, 0.7, 0.0], [0.0, 0.0, 0.9], [0.5, 0.5, 0.0]])
    cause = (rng.random((n, 3)) < np.array([0.3, 0.5, 0.2])).astype(float)
    seen = (rng.random((n, 4)) > 0.95 * (1 - link * cause[:, None]).prod(-1)).astype(float)
    return Problem({"seen": seen}, {"rate": np.full(3, 0.4), "link": 0.6 * link + 0.15, "leak": np.array(0.1)})


def noisy_or(problem: Problem) -> Made:
    """A symptom stays away only if every present cause, and the leak, fail to bring it (Pearl 1988)."""
    import pyro
    import pyro.distributions as dist
    import torch
    from torch.distributions import constraints

    seen, unit = torch.as_tensor(problem.rows["seen"]), constraints.unit_interval

    def model(seen: torch.Tensor) -> None:
        rate = pyro.param("rate", torch.full((3,), 0.4).to(seen), constraint=unit)
        link = pyro.param("link", torch.full((4, 3), 0.3).to(seen), constraint=unit)
        leak = pyro.param("leak", torch.tensor(0.1).to(seen), constraint=unit)
        with pyro.plate("rows", len(seen)):
            z = [pyro.sample(f"z{k}", dist.Bernoulli(rate[k])) for k in range(3)]
            for f in range(4):
                quiet = 1 - leak
                for k in range(3):
                    quiet = quiet * (1 - link[f, k] * z[k])
                pyro.sample(f"y{f}", dist.Bernoulli(1 - quiet), obs=seen[:, f])

    return model, (seen,), dict.fromkeys(("rate", "link", "leak"), unit)


# ---- N-mixture -------------------------------------------------------------------------------------------------------


def animals(n: int, most: int, *, seed: int = 0) -> Problem:
    """Counts of animals at `n` places on one visit each: rows `y` `(n,)` and the largest number `most`; start `lam`."""
    rng = np.random.default_rng(seed)
    y = rng.binomial(rng.poisson(most / 8.0, n), 0.4).astype(float)
    return Problem({"y": y, "most": np.full(n, float(most))}, {"lam": np.array(6.0)})


def n_mixture(problem: Problem) -> Made:
    """A Poisson number of animals, each seen with probability 0.4 (Royle 2004)."""
    import pyro
    import pyro.distributions as dist
    import torch
    from torch.distributions import constraints

    y = torch.as_tensor(problem.rows["y"])
    size = torch.arange(problem.rows["most"][0] + 1.0).to(y)

    def model(y: torch.Tensor) -> None:
        lam = pyro.param("lam", torch.tensor(6.0).to(y), constraint=constraints.positive)
        with pyro.plate("sites", len(y)):
            n = pyro.sample("n", dist.Categorical(logits=dist.Poisson(lam).log_prob(size)))
            ways = torch.lgamma(n + 1.0) - torch.lgamma(y + 1) - torch.lgamma((n - y).clamp(min=0) + 1.0)
            seen = ways + y * np.log(0.4) + (n - y) * np.log(0.6)
            pyro.factor("y", torch.where(n >= y, seen, torch.tensor(-1e30).to(y)))

    return model, (y,), {"lam": constraints.positive}


# ---- items on a grid -------------------------------------------------------------------------------------------------


def items(n: int, count: int, *, seed: int = 0) -> Problem:
    """Answers of `n` people to items of unequal difficulty and slope: rows `x` `(n, items)`; start `slope`, `hard`."""
    rng = np.random.default_rng(seed)
    slope, hard = rng.uniform(0.5, 2, count), rng.standard_normal(count)
    x = (rng.random((n, count)) < 1 / (1 + np.exp(-slope * (rng.standard_normal((n, 1)) - hard)))).astype(float)
    return Problem({"x": x}, {"slope": np.ones(count), "hard": np.zeros(count)})


def on_a_grid(problem: Problem) -> Made:
    """Two-parameter item response with abilities on a grid of 15 nodes (Bock & Aitkin 1981)."""
    import pyro
    import pyro.distributions as dist
    import torch
    from torch.distributions import constraints

    x = torch.as_tensor(problem.rows["x"])
    nodes = torch.linspace(-4, 4, 15).to(x)

    def model(x: torch.Tensor) -> None:
        slope = pyro.param("slope", torch.ones(x.shape[1]).to(x), constraint=constraints.positive)
        hard = pyro.param("hard", torch.zeros(x.shape[1]).to(x))
        with pyro.plate("people", len(x)):
            z = pyro.sample("z", dist.Categorical(logits=-(nodes**2) / 2))
            pyro.sample("x", dist.Bernoulli(logits=slope * (nodes[z].unsqueeze(-1) - hard)).to_event(1), obs=x)

    return model, (x,), {"slope": constraints.positive}


# ---- experts ---------------------------------------------------------------------------------------------------------


def two_lines(n: int, *, hidden: int = 0, seed: int = 0) -> Problem:
    """Two regressions, one on either side of a covariate, fitted by three experts.

    Returns:
        Rows `x` `(n, 2)` and `y` `(n,)`; start `a` `(3,)`, `b` `(3, 2)`, `s` `(3,)`, and of the gates `w` `(3, 2)`, or
        the weights of a network with `hidden` units.
    """
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 2))
    y = np.where(x[:, 0] > 0, 1 + 2 * x[:, 1], -1 - x[:, 1]) + 0.3 * rng.standard_normal(n)
    start = {"a": np.array([-1.0, 0.0, 1.0]), "b": rng.standard_normal((3, 2)), "s": np.ones(3)}
    if not hidden:
        return Problem({"x": x, "y": y}, start | {"w": 0.1 * rng.standard_normal((3, 2))})
    start |= {"net_0_of_weight": rng.standard_normal((hidden, 2)), "net_0_of_bias": np.zeros(hidden)}
    start |= {"net_2_of_weight": 0.3 * rng.standard_normal((3, hidden)), "net_2_of_bias": np.zeros(3)}
    return Problem({"x": x, "y": y}, start)


def experts(problem: Problem) -> Made:
    """A mixture of regressions whose weights depend on the covariates (Jacobs et al. 1991), by a network or not."""
    import pyro
    import pyro.distributions as dist
    import torch
    from torch.distributions import constraints

    x, y = (torch.as_tensor(problem.rows[name]) for name in ("x", "y"))
    hidden = len(problem.start.get("net_0_of_bias", ()))
    layers = (torch.nn.Linear(2, max(hidden, 1)), torch.nn.Tanh(), torch.nn.Linear(max(hidden, 1), 3))
    net = torch.nn.Sequential(*layers).to(x)

    def model(x: torch.Tensor, y: torch.Tensor) -> None:
        if hidden:
            gates = pyro.module("net", net)(x)
        else:
            gates = x @ pyro.param("w", torch.zeros(3, 2).to(x)).mT
        a, b = pyro.param("a", torch.zeros(3).to(x)), pyro.param("b", torch.zeros(3, 2).to(x))
        s = pyro.param("s", torch.ones(3).to(x), constraint=constraints.positive)
        with pyro.plate("rows", len(y)):
            k = pyro.sample("k", dist.Categorical(logits=gates))
            pyro.sample("y", dist.Normal(a[k] + (b[k] * x).sum(-1), s[k]), obs=y)

    return model, (x, y), {"s": constraints.positive}
