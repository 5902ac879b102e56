"""What is fitted: simulated rows and the start that every contender is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Problem:
    """Data and start of one fit.

    Attributes:
        rows: arrays whose first axis is the rows.
        start: starting values by the names that the models use.
    """

    rows: dict[str, Array]
    start: dict[str, Array]

    def head(self, n: int) -> Problem:
        """Keep the first `n` rows, copied."""
        return Problem({k: v[:n].copy() for k, v in self.rows.items()}, self.start)

    def save(self, folder: Path) -> None:
        """Write one `.npy` per array."""
        folder.mkdir(parents=True, exist_ok=True)
        for kind, arrays in (("rows", self.rows), ("start", self.start)):
            for name, array in arrays.items():
                np.save(folder / f"{kind}.{name}.npy", array)


def load(folder: Path, dtype: DTypeLike = np.float64) -> Problem:
    """Read what `Problem.save` wrote, at the precision asked for."""
    parts: dict[str, dict[str, Array]] = {"rows": {}, "start": {}}
    for path in sorted(folder.glob("*.npy")):
        kind, name = path.stem.split(".")
        parts[kind][name] = np.load(path).astype(dtype, copy=False)
    return Problem(parts["rows"], parts["start"])


def gaussian(n: int, D: int, K: int, *, diagonal: bool = False, gap: float = 0.0, seed: int = 0) -> Problem:
    """Gaussian clusters; the start is `K` of the rows under the pooled scale, or where the clusters are, if far apart.

    Args:
        n: rows.
        D: dimensions.
        K: clusters.
        diagonal: whether dimensions are independent.
        gap: between neighbours on a line, in about their standard deviations; they overlap by default.
        seed: of the draws.

    Returns:
        Rows `x` `(n, D)`; start `weights` `(K,)`, `loc` `(K, D)` and `scale` `(K, D)` or `scale_tril` `(K, D, D)`.
    """
    rng = np.random.default_rng(seed)
    centre = 2.0 * rng.standard_normal((K, D))
    if gap:
        centre = np.tile(gap / np.sqrt(D) * np.arange(K)[:, None], (1, D))
    shape = rng.standard_normal((K, D, D)) / np.sqrt(D)
    if diagonal:
        shape = 0.0 * shape
    root = np.linalg.cholesky(shape @ shape.transpose(0, 2, 1) + 0.5 * np.eye(D))
    kind = rng.choice(K, size=n, p=rng.dirichlet(np.full(K, 10.0)))
    x = rng.standard_normal((n, D))
    for k in range(K):
        mine = kind == k
        x[mine] = x[mine] @ root[k].T + centre[k]
    spread = np.full(D, 1.5) if gap else x[:2000].std(0)
    loc = centre + 0.3 * rng.standard_normal((K, D)) if gap else x[rng.choice(n, K, replace=False)].copy()
    start = {"weights": np.full(K, 1 / K), "loc": loc}
    if diagonal:
        start["scale"] = np.tile(spread, (K, 1))
    else:
        start["scale_tril"] = np.tile(np.diag(spread), (K, 1, 1))
    return Problem({"x": x}, start)


def coins(n: int, K: int, *, flips: int = 10, seed: int = 0) -> Problem:
    """Sequences of `flips` tosses, each of one of `K` coins: rows `heads` `(n,)`; start `weights`, `bias` `(K,)`."""
    rng = np.random.default_rng(seed)
    bias = np.linspace(0.1, 0.9, K)
    heads = rng.binomial(flips, bias[rng.integers(K, size=n)]).astype(float)
    return Problem({"heads": heads}, {"weights": np.full(K, 1 / K), "bias": np.linspace(0.2, 0.7, K)})


def answers(n: int, J: int, K: int, *, seed: int = 0) -> Problem:
    """Yes-or-no answers to `J` questions by `K` kinds of people.

    Returns:
        Rows `x` `(n, J)`; start `weights` `(K,)`, `probs` `(K, J)`.
    """
    rng = np.random.default_rng(seed)
    probs = rng.beta(1.0, 1.0, (K, J)) * 0.9 + 0.05
    x = (rng.random((n, J)) < probs[rng.integers(K, size=n)]).astype(float)
    tilt = np.linspace(-1, 1, K)[:, None] * rng.choice([-1.0, 1.0], J)
    start = 1 / (1 + np.exp(-(np.log(x.mean(0) / (1 - x.mean(0))) + tilt)))
    return Problem({"x": x}, {"weights": np.full(K, 1 / K), "probs": start})


def chains(n: int, T: int, S: int, D: int, *, seed: int = 0) -> Problem:
    """Sequences of `T` steps of a sticky chain with `S` states and `D` independent normal coordinates.

    Returns:
        Rows `y` `(n, T, D)`; start `initial` `(S,)`, `transition` `(S, S)`, `loc` and `scale` `(S, D)`.
    """
    rng = np.random.default_rng(seed)
    centre = 1.5 * rng.standard_normal((S, D))
    sticky = 0.8 * np.eye(S) + 0.2 / S
    state = np.empty((n, T), dtype=int)
    state[:, 0] = rng.integers(S, size=n)
    moves, anywhere = rng.random((n, T)) < 0.2, rng.integers(S, size=(n, T))
    for t in range(1, T):
        state[:, t] = np.where(moves[:, t], anywhere[:, t], state[:, t - 1])
    y = centre[state] + rng.standard_normal((n, T, D))
    start = {
        "initial": np.full(S, 1 / S),
        "transition": sticky,
        "loc": centre + 0.3 * rng.standard_normal((S, D)),
        "scale": np.full((S, D), 1.5),
    }
    return Problem({"y": y}, start)


def symbols(n: int, T: int, S: int, C: int, *, seed: int = 0) -> Problem:
    """Sequences of `T` steps of a sticky chain with `S` states that emit one of `C` symbols.

    Returns:
        Rows `y` `(n, T)`, whole numbers; start `initial` `(S,)`, `transition` `(S, S)`, `probs` `(S, C)`.
    """
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(C, 0.3), S)
    sticky = 0.8 * np.eye(S) + 0.2 / S
    state = np.empty((n, T), dtype=int)
    state[:, 0] = rng.integers(S, size=n)
    moves, anywhere = rng.random((n, T)) < 0.2, rng.integers(S, size=(n, T))
    for t in range(1, T):
        state[:, t] = np.where(moves[:, t], anywhere[:, t], state[:, t - 1])
    y = (probs[state].cumsum(-1) > rng.random((n, T, 1))).argmax(-1).astype(float)
    start = {"initial": np.full(S, 1 / S), "transition": sticky, "probs": 0.7 * probs + 0.3 / C}
    return Problem({"y": y}, start)


def words(n: int, V: int, K: int, *, columns: int = 2, seed: int = 0) -> Problem:
    """Categories out of `V`, few of which are frequent.

    Returns:
        Rows `x` `(n, columns)`; start `weights` `(K,)`, `probs` `(columns, K, V)`.
    """
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(V, 0.1), (columns, K))
    kind = rng.integers(K, size=n)
    x = np.stack([_drawn(rng, part[kind]) for part in probs], -1)
    start = {"weights": np.full(K, 1 / K), "probs": rng.dirichlet(np.ones(V), (columns, K))}
    return Problem({"x": x.astype(float)}, start)


def topics(n: int, documents: int, V: int, K: int, *, seed: int = 0) -> Problem:
    """Words in documents: rows `document`, `word` `(n,)`; start `share` `(documents, K)`, `probs` `(K, V)`."""
    rng = np.random.default_rng(seed)
    share, probs = rng.dirichlet(np.full(K, 0.3), documents), rng.dirichlet(np.full(V, 0.05), K)
    document = np.sort(rng.integers(documents, size=n))
    word = _drawn(rng, probs[_drawn(rng, share[document])])
    start = {"share": rng.dirichlet(np.ones(K), documents), "probs": rng.dirichlet(np.ones(V), K)}
    return Problem({"document": document.astype(float), "word": word.astype(float)}, start)


def factors(n: int, D: int, k: int, *, missing: float = 0.0, seed: int = 0) -> Problem:
    """Measurements that go together by factors.

    Returns:
        Rows `x` `(n, D)`, and `seen` `(n, D)` if some are missing; start `loc` and `scale` `(D,)`, `loadings` `(D, k)`.
    """
    rng = np.random.default_rng(seed)
    loadings, scale = rng.standard_normal((D, k)), rng.uniform(0.5, 1.5, D)
    x = rng.standard_normal((n, k)) @ loadings.T + rng.standard_normal(D) + scale * rng.standard_normal((n, D))
    start = {"loc": x.mean(0), "loadings": loadings + 0.3 * rng.standard_normal((D, k)), "scale": np.ones(D)}
    seen = {"seen": (rng.random((n, D)) >= missing).astype(float)} if missing else {}
    return Problem({"x": x, **seen}, start)


def system(T: int, D: int, k: int, *, seed: int = 0) -> Problem:
    """A state that turns slowly and is disturbed, seen through noise.

    Returns:
        Rows `y` `(T, D)`; start `transition` `(k, k)`, `emission` `(D, k)`, `loc` and `noise` `(D,)`.
    """
    rng = np.random.default_rng(seed)
    transition = 0.9 * np.linalg.qr(rng.standard_normal((k, k)))[0]
    emission, state = rng.standard_normal((D, k)), rng.standard_normal((T, k))
    for t in range(1, T):
        state[t] += transition @ state[t - 1]
    y = state @ emission.T + 0.5 * rng.standard_normal((T, D))
    start = {"transition": 0.5 * np.eye(k), "emission": emission + 0.1, "loc": y.mean(0), "noise": np.ones(D)}
    return Problem({"y": y}, start)


def regressions(n: int, D: int, K: int, *, link: str = "identity", seed: int = 0) -> Problem:
    """Mixed regressions with an intercept: an "identity" link with noise, counts by a "log", answers by a "logit".

    Returns:
        Rows `x` `(n, D)`, `y` `(n,)`; start `weights` `(K,)`, `coef` `(K, D)` and for the identity `scale` `(K,)`.
    """
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, D))
    x[:, 0] = 1.0
    coef = (1.0 if link == "identity" else 0.4) * rng.standard_normal((K, D))
    eta = (x * coef[rng.integers(K, size=n)]).sum(-1)
    start = {"weights": np.full(K, 1 / K), "coef": coef + 0.1 * rng.standard_normal((K, D))}
    if link == "identity":
        return Problem({"x": x, "y": eta + 0.5 * rng.standard_normal(n)}, start | {"scale": np.ones(K)})
    y = rng.poisson(np.exp(eta)) if link == "log" else rng.random(n) < 1 / (1 + np.exp(-eta))
    return Problem({"x": x, "y": y.astype(float)}, start)


def _drawn(rng: np.random.Generator, probs: Array) -> NDArray[np.intp]:
    """A category a row of `probs`, shape `(n,)`."""
    return np.minimum((rng.random((len(probs), 1)) > probs.cumsum(-1)).sum(-1), probs.shape[-1] - 1)
