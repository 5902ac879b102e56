"""The examples in reading order, where their pictures go, and a way to run them all.

`python examples/gallery.py docs/pictures` runs every example and puts its picture there; `make gallery` does just this.
One example run on its own puts its picture into the folder that the environment variable `PICTURES` names, else into
`out`.
"""

import io
import os
import runpy
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLES = (
    "coins",
    "two_gaussians",
    "old_faithful",
    "new_model",
    "em_versus_svi",
    "image_segmentation",
    "market_regimes",
    "topics",
    "anomalies",
    "tomography",
    "holes",
    "nile",
    "growth",
    "how_sure",
)

DOTS_PER_INCH = 150
"""Eight inches wide, a picture is half as fine again as GitHub shows it."""


def save(figure: "Figure", name: str) -> None:
    """Write a figure as a PNG of at most 256 colours, which is small and looks the same."""
    folder = Path(os.environ.get("PICTURES", "out"))
    folder.mkdir(parents=True, exist_ok=True)
    raw = io.BytesIO()
    figure.savefig(raw, dpi=DOTS_PER_INCH)
    with Image.open(raw) as image:
        small = image.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    small.save(folder / f"{name}.png", optimize=True)


def main() -> None:
    """Run every example, or those that are named, into the folder that comes first."""
    import matplotlib.pyplot as plt
    import pyro
    import torch

    if len(sys.argv) < 2:
        raise SystemExit("usage: python examples/gallery.py FOLDER [EXAMPLE ...]")
    os.environ["PICTURES"] = sys.argv[1]
    plt.switch_backend("Agg")
    for name in sys.argv[2:] or EXAMPLES:
        pyro.clear_param_store()
        torch.set_default_dtype(torch.float32)
        began = time.perf_counter()
        runpy.run_path(str(Path(__file__).with_name(f"{name}.py")))
        plt.close("all")
        print(f"--- {name}: {time.perf_counter() - began:.1f} s\n", flush=True)


if __name__ == "__main__":
    main()
