"""Arms that adapt a decoder of passages to tasks about them, and what share of the tasks is right after."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from maquette.adaptation.methods import Method
from maquette.adaptation.recipes import AdaptOptions, text_recipe
from maquette.experiments.bases.styles import (
    CONTEXT,
    style_corpus,
    style_decoder,
    style_examples,
    task_accuracy,
)
from maquette.experiments.lab import Lab
from maquette.models.store import language_config
from maquette.training.datasets.examples_config import ExamplesData
from maquette.training.recipe import LanguageRecipe
from maquette.workshop.load import load

EXAMPLES, STEPS, BATCH = 1000, 300, 8
QUESTIONS = 500


@dataclass(frozen=True)
class Arm:
    """A method with its settings, on a base of that width."""

    name: str
    method: Method
    learning_rate: float
    width: int
    rank: int = 2
    prompts: int = 10
    trained: bool = True
    """whether the base was trained"""
    examples: int = EXAMPLES
    """number of labelled passages"""
    steps: int = STEPS
    """number of steps"""
    rate_decay: float = 1.0
    """see `AdaptOptions`"""
    unfreeze: int = 0
    """see `AdaptOptions`"""

    def options(self, seed: int, quick: bool) -> AdaptOptions:
        """The adaptation's options."""
        return AdaptOptions(
            self.method,
            steps=3 if quick else self.steps,
            batch=BATCH,
            learning_rate=self.learning_rate,
            rank=self.rank,
            prompts=self.prompts,
            rate_decay=self.rate_decay,
            unfreeze=1 if quick and self.unfreeze else self.unfreeze,
            sequence=CONTEXT,
            seed=seed,
        )


def base_recipe(arm: Arm, seed: int, quick: bool) -> LanguageRecipe:
    """The run that an arm begins with; where the base is not trained, one of a single step at no rate."""
    width = 32 if quick else arm.width
    recipe = style_decoder(style_corpus(quick), width, seed, quick)
    return recipe if arm.trained else untrained(recipe)


def untrained(recipe: LanguageRecipe) -> LanguageRecipe:
    """The same model at its start."""
    optimiser = replace(recipe.optimiser, learning_rate=1e-12, weight_decay=0.0)
    return replace(recipe, name=f"{recipe.name}-untrained", steps=1, optimiser=optimiser)


def adapted(
    lab: Lab, arms: Sequence[Arm], tasks: Sequence[str]
) -> dict[tuple[Arm, str, int], Path]:
    """The adapted run of every arm, task and seed."""
    recipes = {}
    bases = trained_bases(lab, arms)
    for (arm, seed), base in bases.items():
        for task in tasks:
            corpus = style_examples(task, 40 if lab.quick else arm.examples, load(base).tokenizer)
            data = ExamplesData(corpus=str(corpus.path), sequence=CONTEXT)
            options = arm.options(seed, lab.quick)
            recipes[arm, task, seed] = text_recipe(options, base, language_config(base), data)
    return dict(zip(recipes, lab.train_all(list(recipes.values())), strict=True))


def trained_bases(lab: Lab, arms: Sequence[Arm]) -> dict[tuple[Arm, int], Path]:
    """The base of every arm and seed."""
    recipes = {
        (a, seed): base_recipe(a, seed, lab.quick) for a in arms for seed in range(lab.seeds)
    }
    return dict(zip(recipes, lab.train_all(list(recipes.values())), strict=True))


def accuracies(
    lab: Lab, arms: Sequence[Arm], tasks: Sequence[str]
) -> dict[str, dict[str, list[float]]]:
    """Share of each task's questions that are right: arm, task, a number a seed.

    What an arm's base answers has the name that `base_name` gives.
    """
    questions = 8 if lab.quick else QUESTIONS
    found: dict[str, dict[str, list[float]]] = {}
    for (arm, task, _), path in adapted(lab, arms, tasks).items():
        found.setdefault(arm.name, {}).setdefault(task, []).append(_right(path, task, questions))
    by_name = {base_name(arm): arm for arm in arms}
    for (arm, _), path in trained_bases(lab, list(by_name.values())).items():
        for task in tasks:
            answers = found.setdefault(base_name(arm), {}).setdefault(task, [])
            answers.append(_right(path, task, questions))
    return found


def base_name(arm: Arm) -> str:
    """Name of an arm's base in what `accuracies` returns."""
    return f"base {arm.width}" + ("" if arm.trained else ", untrained")


def _right(path: Path, task: str, questions: int) -> float:
    run = load(path)
    return task_accuracy(run.model, run.tokenizer, task, questions)
