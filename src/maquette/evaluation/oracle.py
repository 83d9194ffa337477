"""An oracle: a small network that reads what a picture of the world shows, to score generated ones.

A generated picture is right when every label that was asked for is read from it. That is a proportion
of n pictures with a binomial interval (Wilson 1927), where a Frechet distance is a number without a
scale. Three things are printed with it, because the reader is a network: its own error on pictures
whose labels are known, how often it takes noise or a blank for what was asked, and how often it takes
a picture of something else for it. `evaluation/residual.py` measures what the oracle forgives.
"""

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from maquette.base.errors import WrongUse
from maquette.base.statistics import wilson
from maquette.models.classifier import Classifier
from maquette.worlds.draw import scenes
from maquette.worlds.render import Pictures, render
from maquette.worlds.shapes import Integers, Shapes, label_names, label_sizes

SEED = 0x0AC1E  # of the pictures that an oracle is checked on: none that a recipe trains on
CHECKED = 2000
BATCH = 256


@dataclass(frozen=True)
class OracleScore:
    """Number of n pictures that show everything that was asked for."""

    right: int
    n: int
    low: float
    """lower end of the 95 % interval of the proportion"""
    high: float
    error: float
    """error of the oracle: fraction of clean pictures of which it misreads a label"""
    chance: float
    """fraction that is right by chance, when pictures have nothing to do with what was asked"""
    per_factor: dict[str, float]
    """fraction of the pictures in which each label is right"""

    @property
    def share(self) -> float:
        """The proportion."""
        return self.right / self.n

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"share": self.share}

    def __str__(self) -> str:
        return (
            f"{100 * self.share:.1f} % all right ({self.right:,} of {self.n:,}, 95 % interval "
            f"{100 * self.low:.1f} to {100 * self.high:.1f}; the oracle misreads "
            f"{100 * self.error:.1f} % of clean pictures, chance is {100 * self.chance:.2f} %)"
        )


@dataclass(frozen=True)
class Checks:
    """Fractions of pictures in which an oracle reads all labels; all but `clean` should be chance."""

    clean: float
    """fraction for pictures of the labels"""
    noise: float
    """fraction for white noise"""
    blank: float
    """fraction for pictures of one grey level"""
    other: float
    """fraction for pictures of other labels"""
    altered: float
    """fraction for pictures with one label changed"""
    chance: float
    n: int


class Oracle:
    """Reads every label of pictures of one world, at one size."""

    def __init__(self, model: Classifier, world: Shapes, image_size: int = 32) -> None:
        """model: its heads are the labels that have more than one value, in order."""
        self.model = model.requires_grad_(False).eval()
        self.world = replace(world, held_out=0, noise=0.0, blur=0.0, phrasings=1)
        self.image_size = image_size
        self.sizes = label_sizes(world)
        self._columns = list(model.config.read)

    @property
    def chance(self) -> float:
        """Probability that randomly drawn labels are all right."""
        return float(1 / np.prod(self.sizes))

    @cached_property
    def error(self) -> float:
        """Share of held-out clean pictures that are not read whole; measured once, on 2,000."""
        shown, labels = self._clean(CHECKED)
        return 1 - float(self._right(shown, labels).all(1).mean())

    @torch.no_grad()
    def read(self, pictures: Tensor | Pictures) -> Integers:
        """The labels that pictures show: int64 (n, factors).

        pictures: (n, 3, height, width), clipped to [-1, 1]; or uint8 (n, height, width, 3).
        Raises WrongUse for pictures of another size.
        """
        x = as_tensor(pictures)
        if x.shape[2:] != (self.image_size, self.image_size):
            raise WrongUse(
                f"the oracle reads pictures of image_size {self.image_size}, these are {x.shape[3]} by "
                f"{x.shape[2]}: ask for one of their size"
            )
        out = np.zeros((len(x), len(self.sizes)), np.int64)
        device = next(self.model.parameters()).device
        for start in range(0, len(x), BATCH):
            part = x[start : start + BATCH].to(device).clamp(-1, 1)
            for column, logits in zip(self._columns, self.model(part), strict=True):
                out[start : start + BATCH, column] = logits.argmax(1).cpu().numpy()
        return out

    def score(self, pictures: Tensor | Pictures, labels: Tensor | npt.ArrayLike) -> OracleScore:
        """Count the pictures that show all their labels; see `read` for the pictures.

        labels: (n, factors). Raises WrongUse where there are none, or not as many as pictures.
        """
        wanted = np.asarray(labels)
        if wanted.shape != (len(pictures), len(self.sizes)) or not len(wanted):
            raise WrongUse(
                f"labels of shape {wanted.shape} for {len(pictures)} pictures: give "
                f"{len(self.sizes)} for each, and at least one picture"
            )
        right = self._right(pictures, wanted)
        whole, n = int(right.all(1).sum()), len(right)
        low, high = wilson(whole, n)
        shares = right.mean(0).tolist()
        names = label_names(self.world)
        return OracleScore(
            whole, n, low, high, self.error, self.chance, dict(zip(names, shares, strict=True))
        )

    def check(self, n: int = 1000, seed: int = 0) -> Checks:
        """Test the oracle on n pictures that are right, wrong, or no pictures of the world."""
        draw = np.random.default_rng(seed)
        shown, labels = self._clean(n, n)
        shape = shown.shape
        altered = labels.copy()
        column = draw.choice(self._columns, n)
        room = np.array(self.sizes)[column]
        rows = np.arange(n)
        altered[rows, column] = (labels[rows, column] + 1 + draw.integers(0, room - 1)) % room
        levels = draw.integers(0, 256, (n, 1, 1, 1), np.uint8)
        noise = draw.integers(0, 256, shape, np.uint8)

        def share(pictures: Pictures, wanted: Integers) -> float:
            return float(self._right(pictures, wanted).all(1).mean())

        return Checks(
            clean=share(shown, labels),
            noise=share(noise, labels),
            blank=share(np.broadcast_to(levels, shape), labels),
            other=share(shown, draw.permutation(labels)),
            altered=share(shown, altered),
            chance=self.chance,
            n=n,
        )

    def _right(self, pictures: Tensor | Pictures, labels: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        return np.equal(self.read(pictures), labels)

    def _clean(self, n: int, first: int = 0) -> tuple[Pictures, Integers]:
        """Held-out pictures without noise, and their labels."""
        drawn = scenes(self.world, SEED, np.arange(first, first + n), "heldout")
        return render(drawn, self.image_size), drawn.labels


def as_tensor(pictures: Tensor | Pictures) -> Tensor:
    """uint8 (n, height, width, 3) -> fp32 (n, 3, height, width) in [-1, 1]; a tensor as it is, in fp32."""
    if isinstance(pictures, Tensor):
        return pictures.detach().float()
    x = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)
    return x.float() / 127.5 - 1
