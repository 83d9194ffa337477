"""An adaptation as a recipe: it begins with a run's weights, and trains what its method says."""

from pathlib import Path

from maquette.adaptation.methods import PATTERNS, Method, adapted
from maquette.models.classifier_config import ClassifierConfig
from maquette.training.picture_recipe import PictureData, PictureRecipe, PictureWatch
from maquette.training.recipe import Optimiser, Schedule

RATES: dict[Method, float] = {
    "linear": 0.01,
    "bias": 0.01,
    "vpt-shallow": 0.03,
    "vpt-deep": 0.03,
    "lora": 0.003,
    "full": 0.001,
}
"""learning rates where none is given"""


def recipe_of(
    method: Method,
    start: Path,
    base: ClassifierConfig,
    data: PictureData,
    classes: tuple[int, ...],
    *,
    labels: tuple[int, ...] = (),
    task: str = "",
    steps: int = 300,
    batch: int = 64,
    learning_rate: float | None = None,
    weight_decay: float = 0.0,
    prompts: int = 10,
    rank: int = 8,
    seed: int = 0,
) -> PictureRecipe:
    """The run that adapts `start`, whose model is `base`, to the labels of `data`.

    classes, labels, task: see `methods.adapted`. steps of `batch` pictures, AdamW and a cosine to 0 after
    a tenth of warm-up, in fp32.
    """
    config = adapted(
        base, method, classes=classes, labels=labels, task=task, prompts=prompts, rank=rank
    )
    return PictureRecipe(
        name=method,
        steps=steps,
        batch=batch,
        seed=seed,
        precision="fp32",
        compile="off",
        start=str(start),
        trained=() if method == "full" else PATTERNS[method],
        model=config,
        data=data,
        optimiser=Optimiser(
            learning_rate=RATES[method] if learning_rate is None else learning_rate,
            beta2=0.99,
            weight_decay=weight_decay,
        ),
        schedule=Schedule(warmup=0.1, floor=0.0),
        watch=PictureWatch(every=max(1, steps), grid=0, report=False),
    )
