"""What may be done to normal latents, and what may not: locations, scales and laws, each with what a refusal says.

All are of one program: rows `z` of two standard normal numbers, and rows `x` of two observations. Many differ from an
affine program by nothing that a probe would see: beyond 1e4, by 1e-9, or not at all at the values that are drawn.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.ops.indexing import Vindex
from torch import Tensor, tensor
from torch.distributions import constraints
from torch.nn import functional

SWAPPED = tensor([1, 0])
BAGS = tensor([[0, 1], [1, 1], [3, 2], [3, 4], [0, 5], [5, 2]])
"""Of each of six rows, two whose latents are added up."""

Location = Callable[[Tensor, Tensor], Tensor]
"""From latents and loadings, shape (2, 2)."""

Law = Callable[[Tensor, Tensor, Tensor], Any]
"""From latents, loadings and scales, to the law of the observations."""


def program(law: Law) -> Callable[[Tensor], None]:
    """Write the program whose observations have this law."""

    def model(x: Tensor) -> None:
        W = pyro.param("W", tensor([[0.5, -0.7], [0.3, 0.9]]))
        scale = pyro.param("scale", tensor([0.8, 1.2]), constraint=constraints.positive)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", law(z, W, scale), obs=x)

    return model


def located(location: Location) -> Callable[[Tensor], None]:
    """Write the program whose observations are normal around this location."""
    return program(lambda z, W, scale: dist.Normal(location(z, W), scale).to_event(1))


def at_most(z: Tensor, W: Tensor) -> Tensor:
    """Branch by the size of the latents."""
    return z @ W.T if z.abs().max() < 1e3 else z


def filled(z: Tensor, W: Tensor) -> Tensor:
    """Write into memory by a condition."""
    found = z.clone()
    found[z > 50] = 0.0
    return found @ W.T


CURVED: Mapping[str, tuple[Location, str]] = {
    "abs": (lambda z, W: z.abs() @ W.T, "abs"),
    "clamp": (lambda z, W: z.clamp(max=1e4) @ W.T, "clamp"),
    "relu": (lambda z, W: torch.relu(z + 100) @ W.T, "relu"),
    "softplus": (lambda z, W: torch.nn.functional.softplus(z + 300) @ W.T, "softplus"),
    "where": (lambda z, W: torch.where(z > -1e6, z, 0.0) @ W.T, "gt"),
    "times a condition": (lambda z, W: z * (z > -1e6) @ W.T, "gt"),
    "masked_fill": (lambda z, W: z.masked_fill(z < -1e6, 0.0) @ W.T, "lt"),
    "isfinite": (lambda z, W: torch.where(z.isfinite(), z, 0.0) @ W.T, "eq"),
    "nan_to_num": (lambda z, W: z.nan_to_num() @ W.T, "nan_to_num"),
    "sort": (lambda z, W: z.sort(-1).values @ W.T, "sort"),
    "max": (lambda z, W: z.max(-1, keepdim=True).values * W[0], "max"),
    "cummax": (lambda z, W: z.cummax(-1).values @ W.T, "cummax"),
    "median": (lambda z, W: z.median(-1, keepdim=True).values * W[0], "median"),
    "norm": (lambda z, W: z.norm(dim=-1, keepdim=True) * W[0], "norm"),
    "a little sine": (lambda z, W: (z + 1e-9 * z.sin()) @ W.T, "sin"),
    "no rounding": (lambda z, W: (z + 0 * z.round()) @ W.T, "round"),
    "fine rounding": (lambda z, W: (z * 1e9).trunc() / 1e9 @ W.T, "trunc"),
    "floor division": (lambda z, W: (z // 1e-9) * 1e-9 @ W.T, "floor_divide"),
    "remainder": (lambda z, W: z.remainder(1e6) @ W.T, "remainder"),
    "whole numbers": (lambda z, W: z.long().double() @ W.T, "_to_copy"),
    "single precision": (lambda z, W: z.float().double() @ W.T, "_to_copy"),
    "tanh": (lambda z, W: torch.tanh(z) @ W.T, "tanh"),
    "softmax": (lambda z, W: torch.softmax(z, -1) * W[0], "softmax"),
    "log-sum-exp": (lambda z, W: z.logsumexp(-1, keepdim=True) * W[0], "logsumexp"),
    "sign": (lambda z, W: z * z.sign() @ W.T, "sign"),
    "cube": (lambda z, W: z**3 @ W.T, "pow"),
    "root of a square": (lambda z, W: (z * z).sqrt() @ W.T, "sqrt"),
    "reciprocal": (lambda z, W: 1 / z + W[0], "reciprocal"),
    "ratio": (lambda z, W: z / z.sum(-1, keepdim=True) * W[0], "div"),
    "cumprod": (lambda z, W: z.cumprod(-1) * W[0], "cumprod"),
    "between latents": (lambda z, W: torch.lerp(z, 2 * z, z.exp()) * W[0], "exp"),
    "power of a wave": (lambda z, W: torch.fft.fft(z).abs() @ W.T, "abs"),
    "largest neighbour": (lambda z, W: torch.max_pool1d(z, 2) * W[0], "max_pool2d_with_indices"),
    "order of rows": (lambda z, W: z[z[:, 0].argsort()] @ W.T, "sort"),
    "a table by a latent": (lambda z, W: W[(z[:, 0] > 0).long()], "gt"),
    "buckets": (lambda z, W: W[torch.bucketize(z[:, 0].contiguous(), tensor([0.0]))], "bucketize"),
    "written": (filled, "gt"),
    "in place": (lambda z, W: z.clone().abs_() @ W.T, "abs"),
    "data": (lambda z, W: z.data.abs() @ W.T, "abs"),
    "distances": (lambda z, W: torch.cdist(z, W), "cdist"),
    "products of some": (lambda z, W: z.scatter_reduce(1, SWAPPED.expand_as(z), z, "prod") @ W.T, "scatter_reduce"),
    "the largest of a bag": (lambda z, W: functional.embedding_bag(BAGS, z, mode="max")[:, :1] * W[0], "embedding_bag"),
    "an inverse": (lambda z, W: torch.linalg.solve(torch.eye(2) + torch.diag_embed(z), 0 * z + W[0]), "solve"),
}  # fmt: skip
"""Locations that are not affine in the latents, and the operation by which they are not."""

PRODUCTS: Mapping[str, Location] = {
    "product": lambda z, W: z * z.flip(-1) @ W.T,
    "square": lambda z, W: z**2 @ W.T,
    "nothing times a square": lambda z, W: z @ W.T + 0 * z * z,
    "difference times itself": lambda z, W: (z - z) * z @ W.T + z @ W.T,
    "matrix product": lambda z, W: (z @ z.T)[:, :2] * W[0],
    "einsum": lambda z, W: torch.einsum("ni,nj->nij", z, z)[:, 0] * W[0],
    "in place": lambda z, W: z.clone().mul_(z) @ W.T,
    "lerp": lambda z, W: torch.lerp(z, 2 * z, z) * W[0],
    "convolution": lambda z, W: functional.conv1d(z.unsqueeze(1), z[:1, :1].unsqueeze(0))[:, 0] * W[0],
    "waves": lambda z, W: torch.fft.irfft(torch.fft.rfft(z) ** 2, n=2) * W[0],
}
"""Locations with products of latents."""

READ: Mapping[str, Location] = {
    "branch": at_most,
    "number": lambda z, W: z @ W.T + 0 * float(z.sum()),
    "allclose": lambda z, W: z if torch.allclose(z, z + 1) else z @ W.T,
    "list": lambda z, W: tensor(z.tolist()) @ W.T,
    "numpy": lambda z, W: z @ W.T + 1e-9 * torch.from_numpy(np.sin(z.detach().numpy())),
    "array": lambda z, W: torch.from_numpy(1.0 * np.asarray(z.detach())) @ W.T,
    "bytes": lambda z, W: torch.frombuffer(bytearray(z.numpy().tobytes()), dtype=torch.float64).reshape(-1, 2) @ W.T,
    "unique": lambda z, W: z.unique()[:2] * W[0] + z,
}  # fmt: skip
"""Locations for which numbers are read out of latents."""

BESIDE: Mapping[str, tuple[Law, str]] = {
    "scale": (lambda z, W, s: dist.Normal(z @ W.T, s * z.exp()).to_event(1), "one in its scale through exp"),
    "scale, times nothing": (lambda z, W, s: dist.Normal(z @ W.T, s + 0 * z).to_event(1), "one in its scale"),
    "covariance": (
        lambda z, W, s: dist.MultivariateNormal(z @ W.T, scale_tril=torch.diag_embed(1 + z.abs())),
        "one in its scale_tril through abs",
    ),
    "factor of a covariance": (
        lambda z, W, s: dist.LowRankMultivariateNormal(z @ W.T, z.abs().unsqueeze(-1), torch.ones(2)),
        "one in its cov_factor through abs",
    ),
    "mask": (lambda z, W, s: dist.Normal(z @ W.T, s).mask(z > -1e9).to_event(1), "one in its inner mask through gt"),
    "only a mask": (lambda z, W, s: dist.Normal(W[0], s).mask(z > 0).to_event(1), "one in its inner mask through gt"),
}  # fmt: skip
"""Laws with latents beside the location, and what is said of them."""

OTHER_LAWS: Mapping[str, Law] = {
    "Laplace": lambda z, W, s: dist.Laplace(z @ W.T, s).to_event(1),
    "StudentT": lambda z, W, s: dist.StudentT(5.0, z @ W.T, s).to_event(1),
    "Cauchy": lambda z, W, s: dist.Cauchy(z @ W.T, s).to_event(1),
    "LogNormal": lambda z, W, s: dist.LogNormal(z @ W.T, s).to_event(1),
    "TransformedDistribution": lambda z, W, s: dist.TransformedDistribution(
        dist.Normal(z @ W.T, s), [dist.transforms.ExpTransform()]
    ).to_event(1),
    "Gamma": lambda z, W, s: dist.Gamma(z.exp(), s).to_event(1),
    "Poisson": lambda z, W, s: dist.Poisson(z.exp()).to_event(1),
    "Bernoulli": lambda z, W, s: dist.Bernoulli(logits=z @ W.T).to_event(1),
    "Binomial": lambda z, W, s: dist.Binomial(1, logits=z @ W.T).to_event(1),
}  # fmt: skip
"""Laws of another kind with latents inside."""

AFFINE: Mapping[str, Location] = {
    "loadings": lambda z, W: z @ W.T,
    "columns": lambda z, W: (W @ z[..., None])[..., 0],
    "einsum": lambda z, W: torch.einsum("nk,dk->nd", z, W),
    "known loadings": lambda z, W: z @ tensor([[1.0, 0.5], [-0.3, 2.0]]) + W[0],
    "cumsum": lambda z, W: z.cumsum(-1) * W[0],
    "cat": lambda z, W: torch.cat([z[:, 1:], z[:, :1]], -1) * W[0],
    "stack": lambda z, W: torch.stack([z[:, 0], z.sum(-1)], -1) * W[0],
    "flip": lambda z, W: z.flip(-1) @ W.T,
    "selected": lambda z, W: z[..., tensor([0, 0])] * W[0] + W[1],
    "difference": lambda z, W: (z[:, :1] - z[:, 1:]) * W[0],
    "mean of coordinates": lambda z, W: z.mean(-1, keepdim=True) * W[0],
    "known condition": lambda z, W: torch.where(tensor([True, False]), z, 0.0) @ W.T,
    "written": lambda z, W: torch.zeros_like(z).index_copy(1, tensor([1, 0]), z) @ W.T,
    "divided": lambda z, W: z @ W.T / 4.0 - z,
    "pow of one": lambda z, W: z**1 @ W.T,
    "neighbours": lambda z, W: (z - z.roll(1, 0)) @ W.T,
    "less their mean": lambda z, W: (z - z.mean(0)) @ W.T,
    "waves": lambda z, W: torch.fft.irfft(torch.fft.rfft(z) * tensor([1.0, 2.0]), n=2) @ W.T,
    "parts of a complex number": lambda z, W: torch.complex(z[:, :1], z[:, 1:]).conj().imag * W[0],
    "convolution": lambda z, W: functional.conv1d(z.unsqueeze(1), tensor([[[0.5, 1.0]]]), padding=1)[:, 0, :2] * W[0],
    "interpolated": lambda z, W: functional.interpolate(z.unsqueeze(1), size=4, mode="linear")[:, 0, 1:3] @ W.T,
    "embedding": lambda z, W: functional.embedding(tensor([1, 0]), z.T).T @ W.T,
    "lerp": lambda z, W: torch.lerp(z, W[0].expand_as(z), 0.3),
    "least squares": lambda z, W: torch.linalg.lstsq(tensor([[2.0, 1.0], [0.0, 1.0]]), z.T).solution.T * W[0],
    "sums without holes": lambda z, W: z.nansum(-1, keepdim=True) * W[0],
    "sums by places": lambda z, W: torch.zeros_like(z).scatter_reduce(1, SWAPPED.expand_as(z), z, "sum") @ W.T,
    "means by places": lambda z, W: z.scatter_reduce(1, SWAPPED.expand_as(z), 2 * z, "mean") @ W.T,
    "doubled and rolled": lambda z, W: torch.cat([z, 2 * z])[: len(z)].roll(1, -1) @ W.T,
}
"""Locations that are affine in latents and in parameters."""


def weighted(x: Tensor) -> None:
    """Observations with weights, and not the latents that they have: half a row is not a row of twice the variance."""
    W = pyro.param("W", torch.ones(2))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with poutine.scale(scale=torch.linspace(0.5, 2.0, len(x))):
            pyro.sample("x", dist.Normal(z[:, None] * W, 1.0).to_event(1), obs=x)


def choice(pick: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], None]:
    """Write a program in which a discrete latent of every row chooses one of two normal ones."""

    def model(x: Tensor) -> None:
        share = pyro.param("share", tensor([0.3, 0.7]), constraint=constraints.simplex)
        with pyro.plate("rows", len(x)):
            c = pyro.sample("c", dist.Categorical(share))
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(pick(z, c), 1.0), obs=x[:, 0])

    return model


CHOICES: Mapping[str, Callable[[Tensor], None]] = {
    "where": choice(lambda z, c: torch.where(c == 0, z[..., 0], z[..., 1])),
    "Vindex": choice(lambda z, c: Vindex(z)[..., c]),
    "table": choice(lambda z, c: torch.stack([z[:, 0], 2 * z[:, 1]])[c, torch.arange(len(z))]),
}
"""Which latent is observed is a question of slopes: zero or not, by the state."""


def chosen(x: Tensor) -> None:
    """A discrete latent chooses one of a plate of normal ones."""
    share = pyro.param("share", tensor([0.3, 0.7]), constraint=constraints.simplex)
    spread = pyro.param("spread", tensor(1.0), constraint=constraints.positive)
    c = pyro.sample("c", dist.Categorical(share))
    with pyro.plate("effects", 2):
        z = pyro.sample("z", dist.Normal(0.0, spread))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(z[c], 1.0), obs=x[:, 0])


def switching(x: Tensor) -> None:
    """A linear dynamical system whose noise switches from step to step."""
    spread = pyro.param("spread", tensor([0.5, 2.0]), constraint=constraints.positive)
    moves = pyro.param("moves", tensor([[0.9, 0.1], [0.2, 0.8]]), constraint=constraints.simplex)
    z, s = tensor(0.0), tensor(0)
    for t in pyro.markov(range(14)):
        s = pyro.sample(f"s_{t}", dist.Categorical(moves[s]))
        z = pyro.sample(f"z_{t}", dist.Normal(z, spread[s]))
        pyro.sample(f"x_{t}", dist.Normal(z, 1.0), obs=x[t % len(x), 0])


def factored(x: Tensor) -> None:
    """A log-density of the latents by `pyro.factor`."""
    W = pyro.param("W", torch.ones(2))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("bend", -(z**4))
        pyro.sample("x", dist.Normal(z[:, None] * W, 1.0).to_event(1), obs=x)


def joined(x: Tensor) -> None:
    """A state for every row, and a latent that all rows have in common."""
    spread = pyro.param("spread", tensor(1.0), constraint=constraints.positive)
    share = pyro.param("share", tensor([0.3, 0.7]), constraint=constraints.simplex)
    mean = pyro.param("mean", tensor([-1.0, 1.0]))
    m = pyro.sample("m", dist.Normal(0.0, spread))
    with pyro.plate("rows", len(x)):
        c = pyro.sample("c", dist.Categorical(share))
        pyro.sample("x", dist.Normal(m + mean[c], 1.0), obs=x[:, 0])


def sum_seen(x: Tensor) -> None:
    """A sum of latents that is observed without noise."""
    spread = pyro.param("spread", torch.ones(2), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), spread).to_event(1))
        pyro.sample("x", dist.Delta(z.sum(-1)), obs=x[:, 0])


WHOLE: Mapping[str, tuple[Callable[[Tensor], None], str]] = {
    "weights of a part": (weighted, r'^Site "x": expected the same poutine.scale as site "z"'),
    "a choice of latents": (chosen, r'^Site "x": expected .* discrete latent "c" alike, got others of z .*"maximise"'),
    "a switching system": (switching, r"^The model: expected at most 4,096 joint states .*, got 16,384 \(s_"),
    "pyro.factor": (factored, r'^Site "bend": expected Normal, MultivariateNormal or Delta .*, got Unit'),
    "a latent of all rows": (joined, r'^Plate "rows": expected continuous latents .* got "m" across .*"maximise"'),
    "a sum without noise": (sum_seen, r'^Site "x": expected a Delta of one continuous latent in each entry'),
}  # fmt: skip
"""Programs of their own, and what is said of them."""

PARAMETERS: Mapping[str, Location] = {
    "square of a loading": lambda z, W: z @ (W * W).T,
    "exponential of a loading": lambda z, W: z @ W.exp().T,
    "product of loadings": lambda z, W: z * W[0] * W[1],
}
"""Locations that are affine in the latents and not in the parameters."""
