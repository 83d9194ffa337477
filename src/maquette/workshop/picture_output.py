"""The file that `maquette generate` writes pictures to."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maquette.base.errors import UserError, WrongUse
from maquette.base.files import check_writable
from maquette.corpus.pictures.store import Pixels
from maquette.workshop.charts import png_grid

PNG: tuple[str, dict[str, Any]] = ("PNG", {})
JPEG: tuple[str, dict[str, Any]] = ("JPEG", {"quality": 95, "subsampling": 0})
FORMATS = {
    "": PNG,
    ".png": PNG,
    ".jpg": JPEG,
    ".jpeg": JPEG,
    ".webp": ("WEBP", {"lossless": True}),
}
"""formats by the suffix of the file's name"""


def check_out(path: Path) -> None:
    """Raise WrongUse or UserError for a file that cannot be written or has an unknown format."""
    kind = path.suffix
    if kind.lower() not in FORMATS:
        known = ", ".join(filter(None, FORMATS))
        raise WrongUse(f"--out {path}: {kind} is no format that is written: use {known}")
    check_writable(path, "--out")


def loses(path: Path) -> bool:
    """Whether a file's format changes pixels."""
    return FORMATS[path.suffix.lower()] is JPEG


def sheet(pixels: Pixels, labels: Sequence[str], kind: str = ".png") -> bytes:
    """A file of pictures (n, height, width, 3), a row for each of several prompts, which are `labels`.

    kind: how its name ends, one of FORMATS. Raises UserError for a sheet that its format cannot hold.
    """
    n, height, width = pixels.shape[:3]
    prompts = len(set(labels))
    columns = 1 if width > 2 * height else n // prompts if 1 < prompts < n else None
    columns, zoom = (None, 1) if n == 1 else (columns, None)
    png = png_grid(np.ascontiguousarray(pixels), columns, zoom=zoom)
    name, options = FORMATS[kind.lower()]
    if name == "PNG":
        return png
    file = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        try:
            picture.save(file, name, **options)
        except (OSError, ValueError) as error:
            wide, high = picture.size
            raise UserError(f"a {kind} cannot hold {wide} x {high} pixels: write a .png") from error
    return file.getvalue()
