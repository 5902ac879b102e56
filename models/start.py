"""Starting values that are deterministic, valid, and different for each component.

Equal components are a saddle of every mixture's likelihood: EM stays there. Each function here therefore returns rows
that differ whenever the data do. At most about `ROWS` rows are looked at, evenly thinned: a start costs nothing.
"""

import torch
from torch import Tensor

ROWS = 2000


def real(x: Tensor) -> Tensor:
    """Return `x` itself if it is floating point, else in the default dtype."""
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def uniform(K: int, x: Tensor) -> Tensor:
    """Return the uniform distribution over `K`, shape `(K,)`, in the dtype and on the device of `x`."""
    return torch.full((K,), 1 / K, dtype=real(x[:1]).dtype, device=x.device)


def spread(x: Tensor, K: int) -> Tensor:
    """Place `K` increasing values inside the range of the data.

    Halfway between the quantiles `(k + 1/2) / K`, which follow the data but may tie, and as many evenly spaced points,
    which never do.

    Args:
        x: data of any shape.
        K: how many values.

    Returns:
        Shape `(K,)`, strictly increasing unless the data are constant.
    """
    x = thin(x.reshape(-1))
    level = (torch.arange(K, dtype=x.dtype, device=x.device) + 0.5) / K
    low, high = x.min(), x.max()
    return 0.5 * torch.quantile(x, level) + 0.5 * (low + level * (high - low))


def spread_rows(x: Tensor, K: int) -> Tensor:
    """Place `K` points along the leading principal axis of the data `x`, shape `(N, D)`.

    Returns:
        Shape `(K, D)`.
    """
    x = thin(x)
    centre, scale = x.mean(0), x.std(0, correction=0)
    unit = (x - centre) / scale
    axis = torch.linalg.eigh(unit.T @ unit).eigenvectors[:, -1]
    axis = axis * torch.where(axis[axis.abs().argmax()] < 0, -1, 1)  # an eigenvector has no sign of its own
    return centre + spread(unit @ axis, K)[:, None] * axis * scale


def tilt(probs: Tensor, K: int) -> Tensor:
    """Tilt one distribution over categories `K` ways: row `k` is `probs[c] * exp(s[k] * t[c])`, normalised.

    `s` and `t` are evenly spaced over [-1, 1], so that the rows go from the first categories to the last.

    Args:
        probs: shape `(C,)`, positive.
        K: how many rows.

    Returns:
        Shape `(K, C)`, rows sum to one.
    """
    s = torch.linspace(-1, 1, K, dtype=probs.dtype, device=probs.device)
    t = torch.linspace(-1, 1, len(probs), dtype=probs.dtype, device=probs.device)
    return (probs.log() + s[:, None] * t).softmax(-1)


def frequencies(x: Tensor, categories: int) -> Tensor:
    """Return smoothed relative frequencies of integer data, shape `(categories,)`: half a count added to each."""
    counts = torch.bincount(x.reshape(-1).long(), minlength=categories) + 0.5
    return counts / counts.sum()


def thin(x: Tensor) -> Tensor:
    """Return about `ROWS` rows of `x`, evenly thinned, as real numbers."""
    return real(some_rows(x))


def some_rows(x: Tensor) -> Tensor:
    """Return about `ROWS` rows of `x`, evenly thinned."""
    return x[:: max(1, len(x) // ROWS)]
