"""Requests to a picture run: a class for each way of making pictures.

    Draw      pictures of prompts, or of nothing
    Fill      what a mask hides of a picture is made anew, the rest is kept to the bit
    Extend    a picture is continued on the sides named
    Enlarge   a picture is made larger, by a run that enlarges
    Vary      what a CLIP sees in a picture is made again (unCLIP: Ramesh et al. 2022)

The command line and `PictureRun.generate` have them as one flat list of options: `Options`, which says
what request is meant. `workshop/picture_generation.py` carries them out.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from maquette.base.errors import WrongUse, within
from maquette.models.diffusion.drawing import AROUND, DRAWING, INVERSION, UPSAMPLING, Drawing
from maquette.serving.outpaint import Sides


@dataclass(frozen=True, kw_only=True)
class Upsample:
    """Upsampling of the generated pictures by another run."""

    run: str
    """directory of the upsampler's run"""
    drawing: Drawing = UPSAMPLING
    """sampling settings of the upsampler"""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Base class of requests."""

    marks: ClassVar[tuple[str, ...]] = ()
    """options of the command line that select this request"""

    prompts: tuple[str, ...] = ()
    """prompts of the pictures"""
    count: int = 1
    """number of pictures of each prompt"""
    drawing: Drawing = DRAWING
    """sampling settings"""
    upsample: Upsample | None = None
    """upsampler of the generated pictures"""

    def __post_init__(self) -> None:
        within(self, 1, float("inf"), "count")

    def unused(self, way: str, *used: str) -> None:
        """Raise WrongUse for an option that is set and none of those that are `used` in this way.

        The seed, and an upsampler with its solver and steps, go with every way.
        """
        own, default = self.drawing, type(self).drawing
        is_set = {
            "a prompt": any(self.prompts),  # empty ones only say how many
            "--count": self.count != 1,
            **dict.fromkeys(self.marks, True),
            "--prior": bool(getattr(self, "prior", "")),
            "--solver": own.solver != default.solver and not self.upsample,
            "--steps": own.steps != default.steps and not self.upsample,
            "--guidance": own.guidance != default.guidance,
        }
        for option, value in is_set.items():
            if value and option not in used:
                raise does_nothing(option, way)


@dataclass(frozen=True, kw_only=True)
class Draw(Request):
    """Pictures from prompts, or without any."""

    prior: str = ""
    """directory of the run that makes the embeddings, for a run that makes pictures from them"""


@dataclass(frozen=True, kw_only=True)
class Fill(Request):
    """Inpainting: the masked pixels of a picture are made anew."""

    marks: ClassVar[tuple[str, ...]] = ("--picture", "--mask")

    picture: Path
    """picture file"""
    mask: Path
    """picture file, white where the picture is made anew"""
    drawing: Drawing = AROUND
    """sampling settings"""


@dataclass(frozen=True, kw_only=True)
class Extend(Request):
    """Outpainting: a picture is continued on some sides."""

    marks: ClassVar[tuple[str, ...]] = ("--picture", "--outpaint")

    picture: Path
    """picture file"""
    sides: Sides
    """pixels on each side"""
    drawing: Drawing = AROUND
    """sampling settings"""


@dataclass(frozen=True, kw_only=True)
class Enlarge(Request):
    """Upsampling of a picture file."""

    marks: ClassVar[tuple[str, ...]] = ("--picture",)

    picture: Path
    """picture file"""


@dataclass(frozen=True, kw_only=True)
class Vary(Request):
    """Variations of a picture by its CLIP embedding; without prompt, guidance or solver but DDIM."""

    marks: ClassVar[tuple[str, ...]] = ("--variations-of",)

    picture: Path
    """picture file"""
    text_diff: tuple[str, str] | None = None
    """captions before and after: what the picture shows, and what it shall show"""
    toward: Path | None = None
    """picture file at the other end of an interpolation"""
    drawing: Drawing = INVERSION
    """sampling settings of inversion and decoding, with the seed of new noise"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text_diff and self.toward:
            raise WrongUse("give --text-diff or --toward, not both: each is a way of its own")
        self.unused("with --variations-of", "--count", "--variations-of", "--steps")


def does_nothing(option: str, way: str) -> WrongUse:
    """Message: an option is set in vain."""
    return WrongUse(f"{option} does nothing {way}: leave it out")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `maquette generate` for a run of pictures; None and "": not given."""

    prompts: tuple[str, ...] = ()
    count: int | None = None
    picture: Path | str | None = None
    mask: Path | str | None = None
    outpaint: dict[str, int] = field(default_factory=dict)
    variations_of: Path | str | None = None
    text_diff: tuple[str, str] | None = None
    toward: Path | str | None = None
    prior: str = ""
    upsample: str = ""
    solver: str | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int | None = None

    def request(self) -> Request:
        """The request that is meant. Raises WrongUse where options do not go together."""
        if (self.mask or self.outpaint) and not self.picture:
            raise WrongUse("--mask and --outpaint change a picture: name it with --picture")
        if self.mask and self.outpaint:
            raise WrongUse("give --mask or --outpaint, not both: one after the other does both")
        if (self.text_diff or self.toward) and not self.variations_of:
            raise WrongUse(
                "--text-diff and --toward begin with a picture: name it by --variations-of"
            )
        fields: dict[str, Any] = {"prompts": self.prompts}
        if self.count is not None:
            fields["count"] = self.count
        if self.upsample:
            fields["upsample"] = Upsample(
                run=self.upsample, drawing=self._drawing(UPSAMPLING, "solver", "steps", "seed")
            )
        if self.variations_of:
            return self._vary(fields)
        if self.picture:
            fields["picture"] = Path(self.picture)
        if self.mask:
            return self._made(Fill, fields | {"mask": Path(self.mask)})
        if self.outpaint:
            return self._made(Extend, fields | {"sides": sides_of(self.outpaint)})
        if self.picture:
            return self._made(Enlarge, fields)
        return self._made(Draw, fields | {"prior": self.prior})

    def _made(self, kind: type[Request], fields: dict[str, Any]) -> Request:
        if self.prior and kind is not Draw:
            raise does_nothing("--prior", f"with {kind.marks[-1]}")
        names = ("solver", "steps", "guidance", "seed")
        return kind(**fields, drawing=self._drawing(kind.drawing, *names))

    def _vary(self, fields: dict[str, Any]) -> Vary:
        for name in ("picture", "mask", "outpaint", "prior"):
            if getattr(self, name):
                raise does_nothing(f"--{name}", "with --variations-of")
        names = ["seed"] if self.upsample else ["seed", "solver"]
        if self.guidance not in (None, Drawing.guidance):
            names.append("guidance")
        drawing = self._drawing(INVERSION, *names)
        if self.steps is not None:  # a way there and a way back
            drawing = replace(drawing, steps=2 * self.steps)
        assert self.variations_of is not None
        return Vary(
            **fields,
            picture=Path(self.variations_of),
            text_diff=self.text_diff,
            toward=None if not self.toward else Path(self.toward),
            drawing=drawing,
        )

    def _drawing(self, default: Drawing, *names: str) -> Drawing:
        """A drawing that differs from the default where an option of those names is given."""
        options = {name: getattr(self, name) for name in names}
        return replace(default, **{k: v for k, v in options.items() if v is not None and v != ""})


def sides_of(outpaint: dict[str, int]) -> Sides:
    """Pixels by side. Raises WrongUse for another word than a side, and for less than a pixel."""
    for side, pixels in outpaint.items():
        if side not in ("left", "right", "top", "bottom") or pixels < 1:
            raise WrongUse(
                f"--outpaint {side}={pixels}: use left, right, top or bottom, and pixels"
            )
    return Sides(**outpaint)
