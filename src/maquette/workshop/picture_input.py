"""Input pictures of a model: read from files, cut and resized to its image_size."""

from pathlib import Path

import numpy as np
from torch import Tensor

from maquette.base.errors import UserError, WrongUse
from maquette.corpus.pictures.decode import NoPicture, decode, decode_whole, shape_of
from maquette.corpus.pictures.store import Pixels
from maquette.training.datasets.pictures import to_tensor
from maquette.workshop.picture_mask import Hidden, read_mask

MOST = 1 << 20  # pixels of a picture that is taken whole


class Input:
    """Reads picture files; `notes` records what was cut off or resized.

    Raises UserError with what is wrong with a file.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []

    def square(self, path: Path, image_size: int) -> Pixels:
        """(height, width, 3): the middle square."""
        data = _bytes(path)
        try:
            pixels, (height, width) = decode(data, image_size)[0], shape_of(data)
        except NoPicture as error:
            raise _unusable(path, error) from error
        side = min(height, width)
        done = [] if height == width else ["its middle square was taken"]
        if side != image_size:
            done.append(
                f"made {'smaller' if side > image_size else 'larger'}, {image_size} x {image_size}"
            )
        self._note(path, height, width, done)
        return pixels

    def whole(self, path: Path) -> Pixels:
        """(height, width, 3): all of it, as large as it is up to MOST pixels."""
        data = _bytes(path)
        try:
            pixels, (height, width) = decode_whole(data, MOST), shape_of(data)
        except NoPicture as error:
            raise _unusable(path, error) from error
        if pixels.shape[:2] != (height, width):
            small = f"made smaller, {pixels.shape[1]} x {pixels.shape[0]}"
            self._note(path, height, width, [small])
        return pixels

    def tensor(self, path: Path, image_size: int | None = None) -> Tensor:
        """(1, 3, height, width) in [-1, 1]; image_size: of its middle square; None: the whole."""
        pixels = self.whole(path) if image_size is None else self.square(path, image_size)
        return to_tensor(np.ascontiguousarray(pixels)[None])

    def hidden(self, path: Path, picture: Path, image_size: int) -> Hidden:
        """(height, width): what a mask hides of the middle square of a picture.

        Raises WrongUse for a mask of another shape than the picture, and UserError for one that hides
        nothing of it; `notes` says where it hides everything, and how it was read.
        """
        data = _bytes(path)
        try:
            own = _bytes(picture)
            mask, (high, wide) = read_mask(data, own), shape_of(own)
        except NoPicture as error:
            raise _unusable(path, error) from error
        height, width = mask.soft.shape
        if abs(width * high - height * wide) >= max(wide, high):  # more than a rounded side
            raise WrongUse(
                f"the mask {path} is {width} x {height}, the picture {picture} is {wide} x {high}: make the "
                f"mask of the picture's shape, at any scale"
            )
        hidden = mask.square(image_size)
        if not hidden.any():
            fault, mend = "hides nothing", "paint it white where the picture is made anew"
            if (mask.soft >= 0.5).any():
                fault = f"hides less than a pixel of the middle square, {image_size} x {image_size}"
                mend = "paint more of it white"
            raise UserError(f"the mask {path} {fault}: {mend}")
        if mask.note:
            self.notes.append(f"the mask {path}: {mask.note}")
        if hidden.all():
            self.notes.append(f"the mask {path} hides everything: nothing of the picture is kept")
        return hidden

    def _note(self, path: Path, height: int, width: int, done: list[str]) -> None:
        if done:
            self.notes.append(f"{path} is {width} x {height}: {' and '.join(done)}")


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"there is no picture {path}: name a file")
    return path.read_bytes()


def _unusable(path: Path, error: NoPicture) -> UserError:
    return UserError(f"{path} cannot be used as a picture ({error}): name another")
