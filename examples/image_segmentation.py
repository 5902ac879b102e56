# %% [markdown]
"""# What are the parts of this picture?

A photograph is a cloud of colours. Fit a mixture of Gaussians to the colours of some of its pixels, then ask of every
pixel which component it came from. **Are the components the parts that we see, and where is it in doubt?**

Photograph: a temple in China by danielbuechele (flickr.com/photos/danielbuechele/6061409035, CC BY 2.0), one of two
sample images that come with scikit-learn; shown reduced to a third of its size.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from em_pyro.models.gaussian_mixture import full

from em_pyro import EM

try:
    from sklearn.datasets import load_sample_image
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("This example needs scikit-learn: pip install 'em-pyro[examples]'") from missing

K = 4
photograph = load_sample_image("china.jpg")[::3, ::3] / 255.0
height, width, _ = photograph.shape
pixels = torch.tensor(photograph.reshape(-1, 3))
some = pixels[torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))[:3000]]

fit = EM(full, starts=3, max_steps=200, tol=1e-6).fit(some, K)
print(fit)

# %% [markdown]
# The posterior of all pixels comes from the fit to a few. Each part is shown in its mean colour; doubt is the
# probability that the most probable part is the wrong one.

# %%
share = fit.posterior_on(pixels, K).marginal("component")
part = share.argmax(-1)
sizes = torch.bincount(part, minlength=K) / len(part)
colours = torch.stack([pixels[part == k].mean(0) for k in range(K)])
parts = colours[part].reshape(height, width, 3)
doubt = (1 - share.amax(-1)).reshape(height, width)

figure, axes = plt.subplots(2, 2, figsize=(8, 5.6), layout="constrained")
(original, segmented), (uncertain, cloud) = axes
original.imshow(photograph, interpolation="nearest")
original.set(title="photograph")
segmented.imshow(parts.numpy(), interpolation="nearest")
segmented.set(title=f"{K} parts, in their mean colours")
shown = uncertain.imshow(doubt.numpy(), cmap="cividis", vmin=0, vmax=0.5, interpolation="nearest")
uncertain.set(title="doubt")
figure.colorbar(shown, ax=uncertain, shrink=0.8, label="P(another part)")
for ax in (original, segmented, uncertain):
    ax.set(xticks=(), yticks=())
    ax.set_xlabel(f"{width} pixels")
    ax.set_ylabel(f"{height} pixels")
order = part[:: len(pixels) // 4000]
for k, mark in zip(range(K), "o^sDv", strict=False):
    points = pixels[:: len(pixels) // 4000][order == k]
    look = {"marker": mark, "color": colours[k].numpy(), "edgecolors": "0.4", "linewidths": 0.2}
    cloud.scatter(points[:, 0], points[:, 2], s=7, label=f"{float(sizes[k]):.0%}", **look)
cloud.set(xlabel="red", ylabel="blue", title="the cloud of colours")
cloud.legend(title="pixels", frameon=False, markerscale=2.5, fontsize=9)
plt.show()

# %% [markdown]
# The parts hang together, though the model knows nothing of place: a pixel's right-hand neighbour belongs to the same
# part far more often than a pixel picked anywhere. The sky is one of them: most of the top rows is of one part.

# %%
labels = part.reshape(height, width)
together = float((labels[:, 1:] == labels[:, :-1]).double().mean())
anywhere = float((sizes**2).sum())
sky = torch.bincount(labels[:20].reshape(-1), minlength=K).max() / labels[:20].numel()
print(f"\nneighbours of one part {together:.0%}, pixels anywhere {anywhere:.0%}; top rows of one part {float(sky):.0%}")
assert together > anywhere + 0.3
assert float(sky) > 0.8
assert np.mean(doubt.numpy() > 0.25) < 0.2
