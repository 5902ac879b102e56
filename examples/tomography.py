# %% [markdown]
"""# Where in the head did the photons come from?

A tracer in the body emits photons; a ring of detectors counts on which line each was seen, but not how far along it.
**Can the picture be had back from the counts?** Each photon has a hidden voxel. Shepp and Vardi (1982) saw that this
is EM, and their algorithm, MLEM, has been in scanners ever since.

In Pyro: a photon's voxel is a `Categorical` latent, its detector bin a `Categorical` given the voxel by known
physics. The bins with counts are rows, weighted by their counts. The closed form that is found in the model is MLEM.
"""

# %%
import matplotlib.pyplot as plt
import torch
from em_pyro.models import tomography

from em_pyro import EM

torch.set_default_dtype(torch.float64)
size, angles, steps = 32, 32, 40
counts, system = tomography.simulate(size, angles, photons=200_000)
truth = tomography.phantom(size)

em = EM(tomography.tomography, max_steps=steps, tol=0)
print(em.plan(counts, system), end="\n\n")
fit = em.fit(counts, system)
print(fit)
activity = fit.params["total"] * fit.params["share"] / system.sum(0)

# %% [markdown]
# Forty steps on purpose, not more: the likelihood still rises, but by fitting the noise of the counts. Beside the
# reconstruction stands back-projection, which smears every count along its line.

# %%
back = (system.T @ counts) / system.sum(0)
scale = counts.sum() / truth.sum()
pictures = {
    "phantom": truth,
    "back-projection": back.reshape(size, size) * truth.sum() / back.sum(),
    f"EM, {steps} steps": activity.reshape(size, size) / scale,
}


def error(picture: torch.Tensor) -> float:
    """Root mean square distance from the phantom."""
    return float((picture - truth).square().mean().sqrt())


figure, axes = plt.subplots(2, 2, figsize=(8, 7.4), layout="constrained")
sinogram, (phantom, smeared, found) = axes[0, 1], (axes[0, 0], axes[1, 0], axes[1, 1])
for ax, (name, picture) in zip((phantom, smeared, found), pictures.items(), strict=True):
    image = ax.imshow(picture.numpy(), cmap="cividis", vmin=0, vmax=1.2, extent=(-1, 1, -1, 1))
    title = name if name == "phantom" else f"{name}, error {error(picture):.2f}"
    ax.set(title=title, xlabel="left to right", ylabel="back to front", xticks=(-1, 0, 1), yticks=(-1, 0, 1))
figure.colorbar(image, ax=[smeared, found], label="activity", shrink=0.8)
seen = sinogram.imshow(
    counts.reshape(angles, -1).numpy(), cmap="cividis", aspect="auto", extent=(-0.75 * size, 0.75 * size, 180, 0)
)
sinogram.set(title="sinogram: all that is seen", xlabel="detector (voxels from the axis)", ylabel="angle (degrees)")
figure.colorbar(seen, ax=sinogram, label="photons", shrink=0.8)
plt.show()

# %% [markdown]
# The path is MLEM's, here from the formula of the paper; all photons are accounted for; and the picture is twice as
# near to the phantom as back-projection.

# %%
mlem = torch.full_like(activity, float(counts.sum()) / size**2) / system.sum(0)
for _ in range(steps):
    expected = system @ mlem
    mlem = mlem * (system.T @ torch.where(counts > 0, counts / expected, 0.0)) / system.sum(0)
assert bool(((activity - mlem).abs() < 1e-8 * activity.max()).all())
assert abs(float(system.sum(0) @ activity) - float(counts.sum())) < 1e-6 * float(counts.sum())
assert error(pictures[f"EM, {steps} steps"]) < 0.5 * error(pictures["back-projection"])
assert fit.plan["share"].closed_form
