"""A ladder of small models: which runs to train in a given time.

Every budget of operations C is spent on several sizes N, with D = C / 6N tokens each, so that the
best split of each lies between the sizes tried (Hoffmann et al. 2022, approach 2). What follows from
the losses is in `extrapolate.py`.

Budgets double, so the lengths of one size are one length doubled, and all of them branch off one
trunk (`workshop/branched_runs.py`): six budgets cost a third more than the largest alone.

So small a run is short of steps before it is short of data, so a step has 256 tokens, and the second
moment a memory of 0.99 (Porian et al. 2024). N counts all parameters: at sequences of 64 and two
blocks, 6 N is the number of operations a token to within 1 % (the look-up that 6 N counts is as
large as the attention that it does not).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from maquette.base.errors import WrongUse
from maquette.models.config import DecoderConfig
from maquette.nn.rules import Parametrisation
from maquette.scaling.extrapolate import Minimum, Rung
from maquette.training.datasets.text_config import TextData, TextWatch
from maquette.training.recipe import Checkpoints, LanguageRecipe, Optimiser
from maquette.training.schedule import warm_stable_decay

WIDTHS = (8, 16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256)  # whole heads of 8
SEQUENCE, BATCH = 64, 4
WARMUP, DECAY = 40, 0.2
UNIT = 4  # decays begin at multiples of it, so that a fifth of every length is whole
LEAST = 120  # steps before the decay; in fewer, a model has learned little but the warm-up
RATIO = 2.0
PLANS = ((8, 2), (7, 2), (6, 2), (5, 2), (5, 1), (4, 1), (3, 1))
"""pairs of numbers of budgets and seeds, the best first"""
SPARE = 0.2  # of the time, for a size more where a minimum is on the edge
LARGER = 4.0  # what the ladder is asked to predict, over its largest budget


def rung_recipe(
    width: int,
    steps: int,
    vocabulary: int = 257,
    corpus: str = "bytes",
    seed: int = 0,
    save: int | None = None,
    heldout: int = 262_144,
    warmup: int | None = None,
) -> LanguageRecipe:
    """One run: two blocks of that width, muP from width 32, warm up, stay, decay.

    save: steps between the checkpoints that others branch off; all of them are kept.
    """
    return LanguageRecipe(
        name=f"ladder-{width}-{steps}",
        model=DecoderConfig(
            vocabulary=vocabulary,
            context=SEQUENCE,
            width=width,
            depth=2,
            heads=max(1, width // 8),
            activation="gelu_tanh",
            parametrisation=Parametrisation(base_width=32, base_depth=2, base_head_dim=8),
        ),
        data=TextData(corpus=corpus, sequence=SEQUENCE),
        optimiser=Optimiser(learning_rate=2**-7.5, beta2=0.99),
        schedule=warm_stable_decay(steps, WARMUP if warmup is None else warmup, DECAY),
        checkpoints=Checkpoints(every=save, keep_every=save),
        batch=BATCH,
        steps=steps,
        seed=seed,
        precision="fp32",
        compile="off",
        device="cpu",
        watch=TextWatch(every=10_000_000, tokens=heldout, sample_tokens=0, report=False),
    )


@cache
def size(width: int, vocabulary: int) -> int:
    """Number of parameters of the rung of a width."""
    parameters: int = rung_recipe(width, 1000, vocabulary).model.parameters()
    return parameters


def stable_steps(parameters: int, flops: float) -> int:
    """Steps before the decay when so many parameters are given so many operations.

    Rounded so that lengths of budgets that double are lengths that double, to the step.
    """
    steps = (1 - DECAY) * flops / (6 * parameters * SEQUENCE * BATCH)
    halvings = max(0, math.floor(math.log2(steps / 200)))
    return max(UNIT, round(steps / (1 << halvings) / UNIT) * UNIT) << halvings


@dataclass(frozen=True)
class Cell:
    """A run of the ladder: a size at a budget."""

    flops: float
    """budget of the run in operations"""
    width: int
    steps: int
    seed: int

    @property
    def name(self) -> str:
        """Name of the run directory."""
        return f"{self.width}-{self.steps}-{self.seed}"


@dataclass(frozen=True)
class Design:
    """The design of a ladder: budgets, widths and seeds."""

    vocabulary: int
    corpus: str
    budgets: tuple[float, ...]
    widths: tuple[tuple[int, ...], ...]
    """widths at each budget"""
    seeds: int
    heldout: int = 262_144
    """number of held-out tokens scored"""

    @property
    def cells(self) -> list[Cell]:
        """Every run, the longest of each size first: the others branch off it."""
        cells = [
            Cell(flops, width, self.steps(width, flops), seed)
            for seed in range(self.seeds)
            for flops, widths in zip(self.budgets, self.widths, strict=True)
            for width in widths
        ]
        return sorted(cells, key=lambda c: -c.steps)

    def steps(self, width: int, flops: float) -> int:
        """Length of a run in steps."""
        return round(stable_steps(size(width, self.vocabulary), flops) / (1 - DECAY))

    def recipe(self, cell: Cell) -> LanguageRecipe:
        """The run of a cell, which keeps what the shorter ones of its size branch off."""
        mine = [c.steps for c in self.cells if (c.width, c.seed) == (cell.width, cell.seed)]
        save = math.gcd(*(round(steps * (1 - DECAY)) for steps in mine))
        return rung_recipe(
            cell.width, cell.steps, self.vocabulary, self.corpus, cell.seed, save, self.heldout
        )

    def rung(self, cell: Cell, loss: float) -> Rung:
        """The result of a cell."""
        parameters = size(cell.width, self.vocabulary)
        return Rung(cell.flops, parameters, cell.steps * SEQUENCE * BATCH, loss, cell.seed)

    def trunk(self, cell: Cell) -> Cell:
        """The longest run of a cell's size and seed."""
        return next(c for c in self.cells if (c.width, c.seed) == (cell.width, cell.seed))

    def trained_steps(self) -> dict[int, int]:
        """Number of steps to compute, by width: whole trunks, and the decay of the other runs."""
        total: dict[int, int] = dict.fromkeys(sorted({w for ws in self.widths for w in ws}), 0)
        for cell in self.cells:
            whole = self.trunk(cell) == cell
            total[cell.width] += cell.steps if whole else round(cell.steps * DECAY)
        return total

    def seconds(self, step_seconds: Callable[[int], float], workers: int) -> float:
        """Duration in seconds with `workers` runs in parallel; step_seconds: seconds of a step by width."""
        return sum(n * step_seconds(w) for w, n in self.trained_steps().items()) / workers

    def widened(self, minima: Sequence[Minimum]) -> "Design":
        """With a size more at every budget whose minimum is on the edge of its sizes."""
        widths = []
        for mine, minimum in zip(self.widths, minima, strict=True):
            more = set(mine)
            low, high = WIDTHS.index(min(mine)), WIDTHS.index(max(mine))
            if minimum.edge == "smallest" and low > 0:
                more.add(WIDTHS[low - 1])
            if minimum.edge == "largest" and high + 1 < len(WIDTHS):
                wider = WIDTHS[high + 1]
                if stable_steps(size(wider, self.vocabulary), minimum.flops) >= LEAST:
                    more.add(wider)
            widths.append(tuple(sorted(more)))
        return replace(self, widths=tuple(widths))


def design(
    seconds: float,
    step_seconds: Callable[[int], float],
    *,
    run_seconds: float = 0.0,
    vocabulary: int = 257,
    corpus: str = "bytes",
    text: float = math.inf,
    workers: int = 2,
) -> Design:
    """The largest ladder that fits the time, with some to spare.

    step_seconds: measured seconds of a step by width. run_seconds: overhead of a run. text: number of
    training tokens; no run reads one twice.
    Raises WrongUse when the time or the text is too little for three budgets.
    """
    needed = math.inf
    for budgets, seeds in PLANS:
        planned = _planned(budgets, seeds, vocabulary, corpus, text)
        if planned is None:
            continue
        whole = planned.seconds(step_seconds, workers) + len(planned.cells) * run_seconds / workers
        needed = whole / (1 - SPARE)
        if needed <= seconds:
            return planned
    if needed == math.inf:
        raise WrongUse(f"{text:,.0f} tokens are too few for a ladder: build a larger corpus")
    raise WrongUse(
        f"{seconds / 60:.3g} minutes are too few for a ladder here: give at least "
        f"{math.ceil(needed / 6) / 10:g}"
    )


def tokens_a_parameter(vocabulary: int) -> float:
    """Tokens per parameter at which the search for the best split begins.

    About 25 bytes a parameter at this size; a token of a larger vocabulary stands for more text, and
    more of the parameters belong to it.
    """
    return 25 * math.sqrt(257 / max(257, vocabulary))


def _planned(budgets: int, seeds: int, vocabulary: int, corpus: str, text: float) -> Design | None:
    """So many budgets from the least whose best size has a smaller one; None: text too short."""
    ratio = tokens_a_parameter(vocabulary)
    first = 6 * ratio * size(WIDTHS[1], vocabulary) ** 2
    flops = [first * RATIO**k for k in range(budgets)]
    widths = []
    for budget in flops:
        wanted = math.log((budget / 6 / ratio) ** 0.5)
        sizes = [size(w, vocabulary) for w in WIDTHS]
        near = min(range(len(WIDTHS)), key=lambda i: abs(math.log(sizes[i]) - wanted))
        chosen = tuple(
            WIDTHS[i]
            for i in range(max(0, near - 2), min(len(WIDTHS), near + 3))
            if stable_steps(sizes[i], budget) >= LEAST and budget / 6 / sizes[i] <= text
        )
        if len(chosen) < 4:
            return None
        widths.append(chosen)
    return Design(vocabulary, corpus, tuple(flops), tuple(widths), seeds)
