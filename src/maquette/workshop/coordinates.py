"""The coordinate check: does the size of activations stay the same as the model grows wider?

Models of one recipe at several widths take a few steps of Adam on the same tokens; the mean of |x|
of every branch, of the residual stream and of the logits is kept at each forward pass. Its slope
over the width, both as logarithms, is about 0 where hyper-parameters transfer, and above it where a
wider model takes steps that are too large for it. Beside the maximal-update rules stands the same
recipe in the standard parametrisation, where the sizes must grow: a check that nothing fails finds
nothing.

Source: Yang et al. 2022, "Tensor Programs V", appendix D.1. At the start the logits shrink as
1/sqrt(width), as they should; a few steps mend that. The rule is one of wide models: a batch must
need few directions of the narrowest, so it is 32 tokens from a vocabulary of 16, learnt by heart, and the
rate is a quarter of the recipe's, as in its warm-up. Left out: text, and clipping, which changes
all rates alike.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from maquette.base.errors import WrongUse
from maquette.training.recipe import LanguageRecipe
from maquette.workshop.resized_recipe import decoder, head_size, resized

HIDDEN = (-0.25, 0.15)
"""slopes of hidden activations that count as flat"""
LOGITS = (-0.3, 0.15)
"""slopes of the logits that count as flat: they still grow from their start"""
KINDS: tuple[Literal["mup", "standard"], ...] = ("mup", "standard")
LABELS: dict[str, str] = {"mup": "maximal update", "standard": "standard"}
VOCABULARY, ROWS, TIME, DEPTH = 16, 2, 16, 4
RATE = 0.25
"""learning rate over the recipe's peak rate"""
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Coordinates:
    """Sizes of activations over width and step, in two parametrisations."""

    widths: tuple[int, ...]
    learning_rate: float
    seeds: int
    tensors: tuple[str, ...]
    sizes: dict[str, Array]
    """mean |x| by parametrisation: (tensors, forward passes, widths), geometric mean over seeds"""

    @cached_property
    def slopes(self) -> dict[str, dict[str, list[float]]]:
        """d log2 mean|x| / d log2 width, by parametrisation and tensor, at each forward pass."""
        x = np.log2(self.widths)
        return {
            kind: {
                tensor: [float(np.polyfit(x, np.log2(row), 1)[0]) for row in rows]
                for tensor, rows in zip(self.tensors, sizes, strict=True)
            }
            for kind, sizes in self.sizes.items()
        }

    def steepest(self, kind: str) -> tuple[str, float]:
        """The hidden tensor whose size changes fastest with the width at the last pass."""
        last = {name: rows[-1] for name, rows in self.slopes[kind].items() if name != "logits"}
        name = max(last, key=lambda tensor: abs(last[tensor]))
        return name, last[name]

    def judged(self, kind: str) -> str:
        """ "flat", or the tensor that leaves the bounds furthest and its slope at the last pass."""
        beyond = {}
        for name, rows in self.slopes[kind].items():
            least, most = LOGITS if name == "logits" else HIDDEN
            beyond[name] = max(least - rows[-1], rows[-1] - most)
            if not math.isfinite(beyond[name]):
                beyond[name] = math.inf
        worst = max(beyond, key=lambda tensor: beyond[tensor])
        if beyond[worst] <= 0:
            return "flat"
        slope = self.slopes[kind][worst][-1]
        return f"{worst} {'shrinks' if slope < 0 else 'grows'} as width ** {slope:.2f}"

    @property
    def verdict(self) -> str:
        """Result of the check under the maximal-update rules."""
        return self.judged("mup")

    def summary(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "verdict": self.verdict,
            "flat": self.verdict == "flat",
            "standard": self.judged("standard"),
            "widths": list(self.widths),
            "learning_rate": self.learning_rate,
            "seeds": self.seeds,
            "slopes": self.slopes,
        }

    def chart(self) -> Any:
        """Size over width, a line a forward pass: the fastest hidden tensor and the logits."""
        import altair as alt

        charts = []
        fastest = self.steepest("standard")[0]
        for tensor in (fastest, "logits"):
            index = self.tensors.index(tensor)
            rows = [
                {"width": w, "size": float(size), "pass": step + 1, "rules": LABELS[kind]}
                for kind, sizes in self.sizes.items()
                for step, row in enumerate(sizes[index])
                for w, size in zip(self.widths, row, strict=True)
                if math.isfinite(size) and size > 0
            ]
            axis = alt.Axis(values=list(self.widths), format="d")
            panel = (
                alt.Chart(alt.Data(values=rows))
                .mark_line(point=True)
                .encode(
                    alt.X("width:Q", title="width", axis=axis,
                          scale=alt.Scale(type="log", base=2, nice=False)),
                    alt.Y("size:Q", title="mean |x|", axis=alt.Axis(format="~g"),
                          scale=alt.Scale(type="log", nice=False)),
                    alt.Color("pass:O", title="forward pass", scale=alt.Scale(scheme="viridis")),
                    alt.Column("rules:N", title=None, sort=list(LABELS.values())),
                )
                .properties(width=240, height=200, title=tensor)
            )  # fmt: skip
            charts.append(panel)
        return alt.vconcat(*charts).resolve_scale(color="shared")


def coordinates(
    recipe: LanguageRecipe,
    widths: Sequence[int] | None = None,
    seeds: int = 2,
    steps: int = 6,
    learning_rate: float | None = None,
) -> Coordinates:
    """Measure activations over `steps` forward passes with a step of Adam between them.

    widths: at least two multiples of the recipe's head size, which is kept; None: four, each twice
    the last, from 32 or the head size on. learning_rate: at the base width, held; None: a quarter
    of the recipe's. The models have at most 4 blocks and a vocabulary of 16. Raises WrongUse for widths
    that cannot be.
    """
    whole = decoder(recipe)
    first = max(32, head_size(whole))
    chosen = sorted(set(widths if widths is not None else [first * 2**i for i in range(4)]))
    if len(chosen) < 2:
        raise WrongUse(f"widths are {chosen}: give at least two, such as 32 64 128 256")
    if seeds > 1000:
        raise WrongUse(f"seeds is {seeds}: use at most 1000")
    if seeds < 1 or steps < 2:
        raise WrongUse(f"seeds is {seeds} and steps is {steps}: use at least 1 and 2")
    rate = RATE * recipe.optimiser.learning_rate if learning_rate is None else learning_rate
    model = replace(
        whole,
        vocabulary=min(VOCABULARY, whole.vocabulary),
        context=min(TIME, whole.context),
        depth=min(DEPTH, whole.depth),
        dropout=0.0,
    )
    small = replace(
        recipe,
        model=model,
        data=replace(recipe.data, sequence=model.context),
        optimiser=replace(recipe.optimiser, learning_rate=rate),
    )
    names: list[str] = []
    sizes: dict[str, Array] = {}
    for kind in KINDS:
        rules = replace(model.parametrisation, kind=kind)
        setting = replace(small, model=replace(model, parametrisation=rules))
        logs = []
        for seed in range(seeds):
            by_width = [_sizes(resized(setting, width), seed, steps) for width in chosen]
            names = list(by_width[0])
            logs.append(np.log([[row[name] for name in names] for row in by_width]))
        mean = np.exp(np.mean(logs, axis=0))  # (widths, tensors, passes)
        sizes[kind] = mean.transpose(1, 2, 0)
    return Coordinates(tuple(chosen), rate, seeds, tuple(names), sizes)


def _sizes(recipe: LanguageRecipe, seed: int, steps: int) -> dict[str, list[float]]:
    """Mean |x| of every tensor at each forward pass of one model."""
    import torch
    from torch.nn import functional as F

    from maquette.training.optimiser import make_optimiser

    model = recipe.model.build().initialise(seed)
    optimiser = make_optimiser(model, model.scaling, recipe.optimiser)
    generator = torch.Generator().manual_seed(seed)
    shape = (ROWS, recipe.data.sequence + 1)
    frequency = 1 / torch.arange(1, recipe.model.vocabulary + 1)  # Zipf's
    drawn = torch.multinomial(frequency, math.prod(shape), replacement=True, generator=generator)
    tokens = drawn.view(shape)
    sizes: dict[str, list[float]] = {}
    with _watched(model, sizes):
        for _ in range(steps):
            logits = model(tokens[:, :-1])  # (batch, time, vocabulary)
            sizes.setdefault("logits", []).append(float(logits.detach().abs().mean()))
            F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
            optimiser.step()
            optimiser.zero_grad()
    return sizes


@contextmanager
def _watched(model: Any, sizes: dict[str, list[float]]) -> Iterator[None]:
    """Record mean |x| of the outputs of each block and of its branches."""
    handles = []
    for layer, block in enumerate(model.blocks):
        watched = {"attention": block.attention, "feed-forward": block.feedforward, "stream": block}
        for branch, module in watched.items():

            def note(_: Any, __: Any, y: Any, name: str = f"block {layer} {branch}") -> None:
                sizes.setdefault(name, []).append(float(y.detach().abs().mean()))

            handles.append(module.register_forward_hook(note))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def coordinate_check(
    recipe: LanguageRecipe, widths: Sequence[int] | None = None, seeds: int = 2
) -> tuple[dict[str, Any], Any]:
    """Measure, and return plain values and a chart, as `maquette plan coordinates` shows them."""
    result = coordinates(recipe, widths, seeds)
    return result.summary(), result.chart()
