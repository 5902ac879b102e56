"""Emission tomography: where in the body were the photons emitted that the ring of detectors counted?

         share (V)      system (B, V): known
           |               |
    +------|---------------|---- bin: B, each counted n_b times --+
    |      v               v                                      |
    |    voxel ---------> bin                                     |
    +-------------------------------------------------------------+

Voxel `v` emits a Poisson number of photons of mean `activity_v`, of which a known part `system[b, v]` is counted in
bin `b`. Given their number, the detected photons are independent, and `share_v`, the part of them that comes from voxel
`v`, is proportional to activity times sensitivity, `sum_b system[b, v]`:

    activity_v = total * share_v / sensitivity_v,    total ~ the number of photons detected

so that the Poisson likelihood of Shepp and Vardi is that of `total` times that of the shares. One EM step on the shares
is one step of MLEM. Photons of one bin have one posterior: a bin is a row, weighted by its count.

Closed form: `share` (Categorical probs) and `total` (Poisson rate). The log-likelihood is concave.

Data: simulated, a phantom of ellipses.

References:
    Shepp, L. A. and Vardi, Y. (1982). Maximum likelihood reconstruction for emission tomography. IEEE Transactions on
    Medical Imaging 1, 113-122.
    Lange, K. and Carson, R. (1984). EM reconstruction algorithms for emission and transmission tomography. Journal of
    Computer Assisted Tomography 8, 306-316.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from .seeded import seeded
from .start import real, uniform


def tomography(counts: Tensor, system: Tensor) -> None:
    """Emit photons from voxels and count them in bins.

    Params: `share` `(V,)`, `total` `()`. Sites: `detected`, `voxel` (latent), `bin`; `activity` `(V,)`, deterministic.

    Args:
        counts: photons in each bin, shape `(B,)`.
        system: probability that a photon of voxel `v` is counted in bin `b`, shape `(B, V)`; no column is all zero.
    """
    counts = real(counts)
    sensitivity = system.sum(0)
    share = pyro.param("share", uniform(system.shape[1], system), constraint=constraints.simplex)
    total = pyro.param("total", counts.sum(), constraint=constraints.positive)
    pyro.deterministic("activity", total * share / sensitivity)
    pyro.sample("detected", dist.Poisson(total), obs=counts.sum())
    seen = counts.nonzero()[:, 0]
    log_bins = (system / sensitivity).T.log()
    with pyro.plate("bins", len(seen)), poutine.scale(scale=counts[seen]):
        voxel = pyro.sample("voxel", dist.Categorical(share))
        pyro.sample("bin", dist.Categorical(logits=log_bins[voxel]), obs=seen)


def phantom(size: int = 16) -> Tensor:
    """Draw a head: a bright rim, a grey inside, two ventricles and a lesion; shape `(size, size)`, from 0 to 1."""
    x, y = _grid(size)
    image = torch.zeros(size, size)
    for value, cx, cy, rx, ry in (
        (1.0, 0.0, 0.0, 0.75, 0.9),
        (0.3, 0.0, 0.0, 0.65, 0.8),
        (0.05, -0.25, 0.05, 0.15, 0.35),
        (0.05, 0.25, 0.05, 0.15, 0.35),
        (0.9, 0.05, -0.5, 0.15, 0.12),
    ):
        image[((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1] = value
    return image


def system_matrix(size: int = 16, angles: int = 24) -> Tensor:
    """Project voxels on `angles` lines of `1.5 * size` bins; a voxel's shadow is shared by the two nearest bins.

    Returns:
        Shape `(angles * bins, size * size)`; each column sums to one, the sensitivity of all voxels being equal.
    """
    bins = (3 * size + 1) // 2
    x, y = (axis.reshape(-1) for axis in _grid(size))
    angle = math.pi * torch.arange(angles)[:, None] / angles
    position = (angle.cos() * x + angle.sin() * y) * (size / 2) + (bins - 1) / 2
    distance = (position[:, None] - torch.arange(bins)[:, None]).abs()
    return (1 - distance).clamp(min=0).reshape(angles * bins, -1) / angles


def simulate(
    size: int = 12, angles: int = 16, photons: float = 20_000.0, seed: int | torch.Generator = 0
) -> tuple[Tensor, Tensor]:
    """Image the phantom.

    Returns:
        `counts` `(B,)` and `system` `(B, V)`: the arguments of `tomography`.
    """
    system = system_matrix(size, angles)
    activity = phantom(size).reshape(-1)
    with seeded(seed):
        return dist.Poisson(system @ activity * photons / activity.sum()).sample(), system


def _grid(size: int) -> tuple[Tensor, Tensor]:
    """Return the voxels' centres, `x` to the right and `y` up, each `(size, size)`, in [-1, 1]."""
    axis = (2 * torch.arange(size) + 1) / size - 1
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    return x, y
