"""The user's own law: the ladder that `maquette plan ladder` measured, where a plan asks for a law.

A ladder is kept in its folder, and once more under the hash of its corpus in Maquette's home, so
that a plan for that corpus finds it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maquette.base.errors import UserError
from maquette.base.files import home, read_json, write_json
from maquette.scaling.extrapolate import Ladder, Prediction, ladder_from

LADDER = "ladder.json"
FAR = 100.0
"""largest budget of a prediction, over the ladder's largest"""


@dataclass(frozen=True)
class LadderLaw:
    """A ladder as a `ScalingLaw`: its frontier, and its parabola off the frontier."""

    ladder: Ladder
    source: str
    name: str = "ladder"

    @property
    def smallest(self) -> float:
        """Number of parameters of the smallest model."""
        return float(min(p.parameters for p in self.ladder.points))

    @property
    def largest(self) -> float:
        """Largest budget in operations."""
        return max(p.flops for p in self.ladder.points)

    @property
    def formula(self) -> str:
        """Formula of the frontier and of the growth off it."""
        f, (a, constant) = self.ladder.frontier, self.ladder.split
        floor = f"{f.floor:.4g} + " if f.floor else ""
        return (
            f"({floor}exp({f.constant:.4g}) C^{f.slope:.4g}) (1 + {self.ladder.curvature:.3g} log^2 "
            f"N / N*), N* = exp({constant:.4g}) C^{a:.4g}"
        )

    def loss(self, parameters: float, tokens: float) -> float:
        """Loss in nats per token of the ladder's corpus."""
        return self.ladder.loss(parameters, tokens)

    def best(self, flops: float) -> tuple[float, float]:
        """Parameters and tokens of the frontier at 6 N D = flops."""
        return self.ladder.best(flops)

    def predict(self, parameters: float, tokens: float) -> Prediction:
        """The loss with its interval of 95 %. UserError beyond 100 times its largest budget."""
        prediction = self.ladder.predict(split=(parameters, tokens))
        if prediction.times > FAR:
            raise UserError(
                f"the budget is {prediction.times:.3g} times the ladder's largest: that far it says nothing"
            )
        return prediction

    def constants(self) -> dict[str, float]:
        """Constants of the frontier, of the best split, and of the growth off it."""
        f, (a, constant) = self.ladder.frontier, self.ladder.split
        return {
            "floor": f.floor, "slope": f.slope, "constant": f.constant,
            "a": a, "log_k": constant, "curvature": self.ladder.curvature,
        }  # fmt: skip


def read_ladder(path: str | Path) -> tuple[Ladder, str]:
    """The ladder of a folder, or of its ladder.json, and where it is from.

    Its `.best(flops)`, `.loss(N, D)` and `.predict(...)` answer in parameters, tokens and nats a
    token of the corpus it was trained on. UserError where there is none.
    """
    path = Path(path).expanduser()
    path = path / LADDER if path.is_dir() else path
    if not path.exists():
        raise UserError(f"{path} does not exist: make one with maquette plan ladder --out DIR")
    content = read_json(path)
    try:
        return ladder_from(content["ladder"]), f"{path}, measured on {content['corpus']}"
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is no ladder: make it anew with maquette plan ladder") from error


def ladder_law(path: Path) -> LadderLaw:
    """The law of a ladder. Raises UserError for a ladder without an interior minimum."""
    law = LadderLaw(*read_ladder(path))
    law.best(1e12)  # a ladder whose minima lie on an edge says nothing: now, not later
    return law


def keep(path: Path, corpus_hash: str) -> None:
    """Register the ladder of a folder for plans on a corpus."""
    content: dict[str, Any] = read_json(path / LADDER)
    write_json(_kept(corpus_hash), content)


def ladder_of(corpus_hash: str) -> LadderLaw | None:
    """The law of the ladder measured on a corpus; None: there is none."""
    try:
        return ladder_law(_kept(corpus_hash))
    except UserError:
        return None


def _kept(corpus_hash: str) -> Path:
    return home() / "ladders" / f"{corpus_hash[:16]}.json"
