"""Neural EM: a pixel of an image belongs to one of `K` objects or to the background, and a network draws the objects.

    place (N, K, 2)    look (N, K, L)   network              lit (2)
           |                 |             |                    |
    +------|-----------------|-------------|--- image: N -------|-----+
    |  +---|-----------------|-------------|--- pixel: P -------|---+ |
    |  |   '------------> log odds <-------'                    v    | |
    |  |                     '-----> object ---------------> pixel  | |
    |  +------------------------------------------------------------+ |
    +-----------------------------------------------------------------+

The log odds that object `k` of image `n`, and not the background, has pixel `i` are

    f(i - place_nk, look_nk) - |i - place_nk|^2,

with one network `f` of two hidden layers for all objects of all images: it learns what an object looks like, and from
`look` which kind this one is. Every object is a code of `2 + L` numbers, too few to draw two things at different
places. Where the network says that no object is, the background is. A pixel is lit with probability `lit_1` inside an
object and `lit_0` outside.

Greff et al. have uniform weights, one Bernoulli a pixel and object for the emission, and a term outside the likelihood
that darkens the pixels which an object does not have. Here the network gives the weights, so that the likelihood alone
tells objects apart, and codes and network are fitted together.

Closed form: `lit` (Bernoulli probs); everything else by torch.

Data: simulated, squares, triangles and crosses that may touch.

References:
    Greff, K., van Steenkiste, S. and Schmidhuber, J. (2017). Neural expectation maximization. Advances in Neural
    Information Processing Systems 30, 6691-6701.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from .seeded import seeded
from .start import count, real

NEAR = 3.0  # half-widths of an image, in the network's unit of length: an object is about a third of it
ROUNDS = 10  # of k-means, for the places at the start
TRIES = 10_000  # of centres that are far enough apart


def neural_em(images: Tensor, K: int = 3, H: int = 8, L: int = 2) -> None:
    """Give every pixel to one of `K` objects, or to the background.

    Params: `place` `(N, K, 2)`, `look` `(N, K, L)`; `near` `(2, H)`, `kind` `(L, H)`, `bias` `(H,)`, `second` `(H, H)`,
    `second_bias` `(H,)`, `last` `(H,)`, `last_bias` `()`: the network; `lit` `(2,)`. Sites: `object` (latent; 0 is the
    background), `pixel`.

    Args:
        images: dark 0 or lit 1, shape `(N, height, width)`.
        K: number of objects in an image.
        H: hidden units in each of two layers.
        L: numbers that say what an object looks like.
    """
    images = real(images)
    grid = pixels(images)
    place = pyro.param("place", lambda: places(images, K))
    look = pyro.param("look", lambda: 0.5 * _random(0, images, len(images), count(K), L))
    near = pyro.param("near", lambda: _random(1, images, 2, H))
    kind = pyro.param("kind", lambda: _random(2, images, L, H))
    bias = pyro.param("bias", lambda: _random(3, images, H))
    second = pyro.param("second", lambda: _random(4, images, H, H) / H**0.5)
    second_bias = pyro.param("second_bias", images.new_zeros(H))
    last = pyro.param("last", lambda: _random(5, images, H) / H**0.5)
    last_bias = pyro.param("last_bias", images.new_ones(()))
    lit = pyro.param("lit", images.new_tensor([0.03, 0.97]), constraint=constraints.unit_interval)

    away = NEAR * (grid - place[:, :, None])
    hidden = torch.tanh(away @ near + (look @ kind + bias)[:, :, None])
    hidden = torch.tanh(hidden @ second + second_bias)
    log_odds = hidden @ last + last_bias - away.square().sum(-1)
    logits = torch.cat([torch.zeros_like(log_odds[:, :1]), log_odds], 1).mT
    with pyro.plate("image", len(images), dim=-2), pyro.plate("pixels", len(grid), dim=-1):
        thing = pyro.sample("object", dist.Categorical(logits=logits))
        pyro.sample("pixel", dist.Bernoulli(lit[(thing > 0).long()]), obs=images.flatten(1))


def pixels(images: Tensor) -> Tensor:
    """Return where the pixels of an image are, shape `(height * width, 2)`: `x` to the right, `y` down, in [-1, 1]."""
    height, width = images.shape[1:]
    y, x = (((2 * torch.arange(size) + 1) / size - 1).to(images) for size in (height, width))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)


def places(images: Tensor, K: int) -> Tensor:
    """Place `K` objects in every image by k-means of its lit pixels, from pixels that are far apart.

    Lit pixels with few lit neighbours are passed over, as long as there are others.

    Returns:
        Shape `(N, K, 2)`.
    """
    images = real(images)
    grid, crowd = pixels(images), torch.nn.functional.avg_pool2d(images[:, None], 3, 1, 1).flatten(1)
    found = []
    for image, around in zip(images.flatten(1), crowd, strict=True):
        inside = next((some for some in ((image > 0) & (around > 0.4), image > 0) if some.any()), image == image)
        points = grid[inside]
        chosen = [points[(points - points.mean(0)).norm(dim=-1).argmax()]]
        while len(chosen) < count(K):
            chosen.append(points[torch.cdist(points, torch.stack(chosen)).amin(-1).argmax()])
        centre = torch.stack(chosen)
        for _ in range(ROUNDS):
            of = torch.cdist(points, centre).argmin(-1)
            centre = torch.stack([points[of == k].mean(0) if (of == k).any() else centre[k] for k in range(K)])
        found.append(centre)
    return torch.stack(found)


def draw(kind: int, x: Tensor, y: Tensor, size: float) -> Tensor:
    """Draw a square (0), a triangle (1) or a cross (2) around the origin, `size` to each side; bool, as `x` and `y`."""
    if kind == 0:
        return (x.abs() < 0.8 * size) & (y.abs() < 0.8 * size)
    if kind == 1:
        return (y.abs() < size) & (x.abs() < (y + 1.1 * size) / 1.8)
    return (x.abs() < 0.25 * size) & (y.abs() < size) | (y.abs() < 0.25 * size) & (x.abs() < size)


def scenes(
    N: int = 2, size: int = 9, K: int = 2, *, flipped: float = 0.01, seed: int | torch.Generator = 0
) -> tuple[Tensor, Tensor]:
    """Draw images of `K` shapes and which shape every pixel belongs to.

    Shapes are five pixels wide; centres keep three and a half from one another, so that shapes may touch. Where two lie
    on each other, the one that is drawn last is in front.

    Returns:
        `images` and `owner` (0: the background), both `(N, size, size)`.

    Raises:
        ValueError: so many shapes have no room.
    """
    y, x = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    owner = torch.zeros(N, size, size, dtype=torch.long)
    with seeded(seed):
        for image in owner:
            for k, centre in enumerate(_apart(size, K)):
                kind = int(torch.randint(3, ()))
                image[draw(kind, x - centre[0], y - centre[1], 2.6)] = k + 1
        flips = torch.rand(owner.shape) < flipped
    return ((owner > 0) ^ flips).to(torch.get_default_dtype()), owner


def simulate(N: int = 2, size: int = 9, K: int = 2, seed: int | torch.Generator = 0) -> tuple[Tensor, int, int]:
    """Draw images of `K` shapes.

    Returns:
        `images` `(N, size, size)`, `K`, and three hidden units: the arguments of `neural_em`.
    """
    return scenes(N, size, K, seed=seed)[0], K, 3


def _apart(size: int, K: int) -> Tensor:
    """Draw the centres of the shapes, `(K, 2)`, until no two are too near."""
    far = torch.diag(torch.full((K,), torch.inf))
    for _ in range(TRIES):
        centres = torch.randint(2, size - 2, (K, 2)) + 0.5
        if float(((centres[:, None] - centres).abs().amax(-1) + far).min()) >= 3.5:
            return centres
    raise ValueError(f"expected an image with room for {K} shapes, got one of {size} pixels a side. Make it larger.")


def _random(seed: int, like: Tensor, *shape: int) -> Tensor:
    """Draw weights from a normal under a seed of their own, in the dtype and on the device of `like`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(like)
