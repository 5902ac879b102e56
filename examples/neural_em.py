# %% [markdown]
"""# Which pixels belong together?

Black and white pictures of three shapes, of which some touch. Colour does not tell the shapes apart, and place alone
does not where they touch; but whoever has seen many of them knows what a shape looks like. **Can a network learn what
an object is, though nobody ever shows it one alone?**

Every pixel belongs to one of three objects or to the background. An object is a place and two more numbers, and one
network draws all objects of all pictures. The E-step asks which object has which pixel, exactly; the M-step lets torch
climb, in the weights of the network and in all places and numbers at once.

Greff, van Steenkiste & Schmidhuber (2017), *Neural expectation maximization*, NIPS 30.
"""

# %%
import matplotlib.pyplot as plt
import torch
from em_pyro.models.neural_em import neural_em, pixels, places, scenes
from matplotlib.colors import ListedColormap
from torch import Tensor

from em_pyro import EM
from em_pyro.plotting import COLOURS

torch.set_default_dtype(torch.float64)
K, SIZE = 3, 14
images, owner = scenes(40, SIZE, K)
fit = EM(neural_em, max_steps=120, tol=1e-6).fit(images, K)
print(fit.outcome, f"after {fit.num_steps} steps: {fit.path[0]:.0f} to {fit.path[-1]:.0f} nats")

# %% [markdown]
# How good is it? Take two pixels of one picture that lie in shapes. Either they belong together, in truth and in what
# was found, or they do not. What is counted is how often the two agree, corrected for chance (Hubert & Arabie 1985),
# against k-means of the pixels' places, from which the network started.


# %%
def agreement(found: Tensor, truth: Tensor) -> float:
    """Adjusted Rand index of two partitions of the same pixels."""
    table = torch.zeros(int(found.max()) + 1, int(truth.max()) + 1)
    table.index_put_((found, truth), torch.ones(len(found)), accumulate=True)
    both, one, other = (float((n * (n - 1) / 2).sum()) for n in (table, table.sum(0), table.sum(1)))
    chance = one * other / (len(found) * (len(found) - 1) / 2)
    return (both - chance) / ((one + other) / 2 - chance)


share = fit.posterior.marginal("object")[..., 1:]  # without the background
by_network = share.argmax(-1)
by_place = torch.cdist(pixels(images), places(images, K)).argmin(-1)
truth = owner.flatten(1)
scores = torch.tensor(
    [
        [agreement(found[n][truth[n] > 0], truth[n][truth[n] > 0]) for n in range(len(images))]
        for found in (by_place, by_network)
    ]
)
before, after = scores.mean(1).tolist()
print(f"agreement with the truth: by place {before:.3f}, by the network {after:.3f}")

# %% [markdown]
# Four pictures, those that have gained most. Left, what each object took of the lit pixels, first by place alone, then
# by what the network has learned; right, the posterior, object by object, of all pixels.

# %%
shown = (scores[1] - scores[0]).argsort(descending=True)[:4].tolist()
figure, axes = plt.subplots(4, 3 + K, figsize=(8, 5.6), layout="constrained")
colours = ListedColormap(["white", *COLOURS[:K]])
titles = ("picture", "by place", "by network", *(f"object {k + 1}" for k in range(K)))
for row, n in zip(axes, shown, strict=True):
    lit = images[n].flatten() > 0
    row[0].imshow(images[n].numpy(), cmap="Greys", vmin=0, vmax=1.3)
    for ax, found in zip(row[1:3], (by_place, by_network), strict=True):
        taken = torch.where(lit, found[n] + 1, 0).reshape(SIZE, SIZE)
        ax.imshow(taken.numpy(), cmap=colours, vmin=0, vmax=K)
    for k in range(K):
        drawn = share[n, :, k].reshape(SIZE, SIZE).numpy()
        posterior = row[3 + k].imshow(drawn, cmap="cividis", vmin=0, vmax=1)
for ax, title in zip(axes[0], titles, strict=True):
    ax.set_title(title)
for ax in axes.flat:
    ax.set(xticks=(), yticks=())
figure.colorbar(posterior, ax=axes[:, 3:], location="bottom", label="P(pixel is of the object)", shrink=0.7, aspect=30)
plt.show()

# %% [markdown]
# The objective never fell, though a network is in it; and shapes are told apart better than by place.

# %%
assert all(above >= below - 1e-9 for below, above in zip(fit.path, fit.path[1:], strict=False))
assert after > before
assert after > 0.9
