"""What `maquette generate` can be asked of a picture run, and what each way of making pictures uses."""

from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path

from maquette.base.errors import WrongUse, check_numbers, did_you_mean, within
from maquette.serving.solvers import SOLVERS

SIDES = ("left", "right", "top", "bottom")
SOLVER, AROUND = "dpm2m", "ddpm"
"""what is taken where no solver is named; around known pixels, where fresh noise lets both parts agree"""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to make; see `maquette generate --help`."""

    prompts: tuple[str, ...] = ()
    count: int = 1
    """pictures of each prompt"""
    picture: Path | None = None
    mask: Path | None = None
    outpaint: dict[str, int] = field(default_factory=dict)
    variations_of: Path | None = None
    text_diff: tuple[str, str] | None = None
    """variations_of: what the picture shows, and what it shall show"""
    toward: Path | None = None
    """variations_of: another picture, and those between"""
    prior: str = ""
    upsample: str = ""
    solver: str = ""
    """empty: dpm2m, and ddpm around known pixels"""
    steps: int = 20
    guidance: float = 3.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers(self)
        within(self, 1, float("inf"), "count", "steps")
        within(self, 0, float("inf"), "guidance")
        if self.solver and self.solver not in SOLVERS:
            raise WrongUse(f"unknown solver {self.solver}{did_you_mean(self.solver, SOLVERS)}")
        for side, pixels in self.outpaint.items():
            if side not in SIDES or pixels < 1:
                raise WrongUse(
                    f"--outpaint {side}={pixels}: use left, right, top or bottom, and pixels"
                )
        if (self.mask or self.outpaint) and self.picture is None:
            raise WrongUse("--mask and --outpaint change a picture: name it with --picture")
        if self.mask and self.outpaint:
            raise WrongUse("give --mask or --outpaint, not both: one after the other does both")
        if (self.text_diff or self.toward) and self.variations_of is None:
            raise WrongUse(
                "--text-diff and --toward begin with a picture: name it by --variations-of"
            )
        if self.text_diff and self.toward:
            raise WrongUse("give --text-diff or --toward, not both: each is a way of its own")

    def uses(self, way: str, *names: str) -> None:
        """Raise WrongUse for an option that is set and none of those `way` uses.

        The seed, and an upsampler with its solver and steps, go with every way.
        """
        every = {"seed", "upsample", *names} | ({"solver", "steps"} if self.upsample else set())
        for f in fields(self):
            default = {} if f.default is MISSING else f.default
            value = getattr(self, f.name)
            if f.name == "prompts" and not any(value):  # empty ones only say how many
                continue
            if f.name not in every and value != default:
                option = "a prompt" if f.name == "prompts" else f"--{f.name.replace('_', '-')}"
                raise WrongUse(f"{option} does nothing {way}: leave it out")
