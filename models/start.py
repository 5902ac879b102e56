"""Starting values that are deterministic, valid, and different for each component.

Equal components are a saddle of every mixture's likelihood: EM stays there. Each function here therefore returns rows
that differ whenever the data do. At most about `ROWS` rows are looked at, evenly thinned: a start costs nothing.

What is wrong with the data is for the fit to say, with the site and the index: here it is passed over.
"""

from numbers import Integral

import torch
from torch import Tensor

from em_pyro.errors import DataError, ParameterError

ROWS = 2000


def real(x: Tensor) -> Tensor:
    """Return `x` itself if it is in single or double precision, else in the default dtype.

    Raises:
        DataError: it is complex.
    """
    if x.is_complex():
        raise DataError(f"The model: expected real data, got {x.dtype}. Pass the real part, or both as columns.")
    return x if x.dtype in (torch.float32, torch.float64) else x.to(torch.get_default_dtype())


def count(K: int) -> int:
    """Return a number of components, or of states.

    Raises:
        ParameterError: it is no whole number, or less than one.
    """
    if isinstance(K, bool) or not isinstance(K, Integral) or K < 1:
        raise ParameterError(f"The model: expected a whole number of components, one or more, got {K!r}. Change it.")
    return int(K)


def uniform(K: int, x: Tensor) -> Tensor:
    """Return the uniform distribution over `K`, shape `(K,)`, in the dtype and on the device of `x`."""
    return torch.full((count(K),), 1 / K, dtype=thin(x[:1]).dtype, device=x.device)


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
    level = (torch.arange(count(K), dtype=x.dtype, device=x.device) + 0.5) / K
    low, high = x.min(), x.max()
    return 0.5 * torch.quantile(x, level) + 0.5 * (low + level * (high - low))


def spread_rows(x: Tensor, K: int) -> Tensor:
    """Place `K` points along the leading principal axis of the data `x`, shape `(N, D)`.

    Returns:
        Shape `(K, D)`.
    """
    x = thin(x)
    centre, scale = x.mean(0), usable(x.std(0, correction=0))
    unit = (x - centre) / scale
    axis = torch.linalg.eigh(unit.T @ unit).eigenvectors[:, -1]
    axis = axis * torch.where(axis[axis.abs().argmax()] < 0, -1, 1)  # an eigenvector has no sign of its own
    return centre + spread(unit @ axis, K)[:, None] * axis * scale


def usable(scale: Tensor) -> Tensor:
    """Return scales as they are, but one where they are none: of constant data, a single row, or bad data."""
    return torch.where((scale > 0) & torch.isfinite(scale), scale, torch.ones_like(scale))


def tilt(probs: Tensor, K: int) -> Tensor:
    """Tilt one distribution over categories `K` ways: row `k` is `probs[c] * exp(s[k] * t[c])`, normalised.

    `s` and `t` are evenly spaced over [-1, 1], so that the rows go from the first categories to the last.

    Args:
        probs: shape `(C,)`, positive.
        K: how many rows.

    Returns:
        Shape `(K, C)`, rows sum to one.
    """
    s = torch.linspace(-1, 1, count(K), dtype=probs.dtype, device=probs.device)
    t = torch.linspace(-1, 1, len(probs), dtype=probs.dtype, device=probs.device)
    return (probs.log() + s[:, None] * t).softmax(-1)


def frequencies(x: Tensor, categories: int) -> Tensor:
    """Return smoothed relative frequencies of integer data, shape `(categories,)`: half a count added to each."""
    x = x.reshape(-1)
    counts = torch.bincount(x[(x >= 0) & (x < categories)].long(), minlength=categories) + 0.5
    return counts / counts.sum()


def categories_of(x: Tensor) -> int:
    """Return one more than the largest category of integer data, and at least one."""
    some_rows(x)
    return 1 + max(0, int(finite(real(x)).max()))


def thin(x: Tensor) -> Tensor:
    """Return about `ROWS` rows of `x`, evenly thinned, as finite real numbers: zero where they are not."""
    return finite(real(some_rows(x)))


def finite(x: Tensor) -> Tensor:
    """Return `x` with zero where it is not finite."""
    return x.nan_to_num(0.0, 0.0, 0.0)


def some_rows(x: Tensor) -> Tensor:
    """Return about `ROWS` rows of `x`, evenly thinned.

    Raises:
        DataError: there are none.
    """
    if not x.numel():
        raise DataError(f"The model: expected at least one row of data, got shape {tuple(x.shape)}. Pass some.")
    return x[:: max(1, len(x) // ROWS)]


def filled(x: Tensor, seen: Tensor | None = None) -> Tensor:
    """Return some rows of data with holes, each filled with the mean of what was seen of its column.

    Args:
        x: rows first.
        seen: of the shape of `x`, bool; all if not given.
    """
    x = some_rows(x)
    known = torch.isfinite(x) if seen is None else torch.isfinite(x) & some_rows(seen)
    mean = finite(x).where(known, 0.0).sum(0) / known.sum(0).clamp(min=1)
    return torch.where(known, x, mean)


def axes(x: Tensor, k: int) -> Tensor:
    """Return the `k` leading principal axes of rows, each as long as the spread along it; shape `(D, k)`.

    Beyond `D` they are shorter copies, which no two are equal.
    """
    centred = x - x.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
    lengths = usable(values.clamp(min=0).sqrt())
    long = (vectors * lengths).flip(-1)
    long = long * torch.where(long.sum(0) < 0, -1, 1)  # an eigenvector has no sign of its own
    which = torch.arange(k, device=x.device)
    return long[:, which % x.shape[1]] * 0.5 ** (which // x.shape[1])
