"""The examples in reading order, and a way to run them all and keep their pictures.

`python examples/gallery.py docs/pictures` runs every example and puts its picture there; `make gallery` does just this.
`python examples/gallery.py out coins` does so with one. An example itself only shows its picture, in a window or in a
notebook.
"""

import io
import runpy
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import torch
from PIL import Image, ImageChops

EXAMPLES = (
    "coins",
    "two_gaussians",
    "old_faithful",
    "how_many",
    "how_many_clusters",
    "new_model",
    "em_versus_svi",
    "image_segmentation",
    "neural_em",
    "market_regimes",
    "topics",
    "anomalies",
    "tomography",
    "holes",
    "nile",
    "growth",
    "batches",
    "how_sure",
)

DOTS_PER_INCH = 150
"""Eight inches wide, a picture is half as fine again as GitHub shows it."""

ALIKE = 20
"""Of 255: no colour of a picture is further off, so that a curve does not come to look like another."""


def draw(name: str, folder: Path) -> None:
    """Run an example, and write its picture as a PNG, of at most 256 colours where these look the same."""
    raw, show = io.BytesIO(), plt.show
    plt.show = lambda: plt.savefig(raw, dpi=DOTS_PER_INCH)
    try:
        runpy.run_path(str(Path(__file__).with_name(f"{name}.py")), run_name="__main__")
    finally:
        plt.show = show
        plt.close("all")
    with Image.open(raw) as image:
        full = image.convert("RGB")
    small = full.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    off = max(most for _, most in ImageChops.difference(full, small.convert("RGB")).getextrema())
    folder.mkdir(parents=True, exist_ok=True)
    (small if off < ALIKE else full).save(folder / f"{name}.png", optimize=True)


def main() -> None:
    """Run every example, or those that are named, into the folder that comes first."""
    if len(sys.argv) < 2:
        raise SystemExit("usage: python examples/gallery.py FOLDER [EXAMPLE ...]")
    plt.switch_backend("Agg")
    for name in sys.argv[2:] or EXAMPLES:
        pyro.clear_param_store()
        torch.set_default_dtype(torch.float32)
        began = time.perf_counter()
        draw(name, Path(sys.argv[1]))
        print(f"--- {name}: {time.perf_counter() - began:.1f} s\n", flush=True)


if __name__ == "__main__":
    main()
