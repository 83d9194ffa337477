"""Decoders of 5,700 to 195,000 parameters at six budgets, for the scaling claims.

Bytes of the default corpus, budgets from 2e10 to 6.4e11 operations, a size several lengths: one trunk a
size, off which its shorter runs branch. Two families of the same runs: tokens in proportion to the size,
and lengths of the largest size a doubling apart.
"""

from maquette.experiments.lab import Lab
from maquette.scaling.extrapolate import Ladder, Rung, analyse
from maquette.scaling.rungs import BATCH, DECAY, SEQUENCE, UNIT, rung_recipe, size, stable_steps
from maquette.training.recipe import LanguageRecipe
from maquette.training.run import RunDirectory

BUDGETS = tuple(2e10 * 2**k for k in range(6))
SIZES = (
    (8, 16, 24, 32),
    (8, 16, 24, 32),
    (16, 24, 32, 48),
    (16, 24, 32, 48, 64),
    (24, 32, 48, 64),
    (32, 48, 64, 80),
)
"""widths at each budget, around the best as a pilot found it"""
LARGEST = 64  # width of the held-out run, of 4 times the largest budget
TIMES = 8.0  # the longest run of that width, over the largest budget
FAMILY = (16, 24, 32, 48, 64)  # widths with tokens in proportion, for the power law in N
Runs = dict[tuple[int, int], list[float]]
"""held-out losses, by seed, of each (width, steps)"""


def budgets(quick: bool) -> tuple[float, ...]:
    """Budgets of the ladder in operations; at toy size a hundredth of the first three."""
    return tuple(c / 100 for c in BUDGETS[:3]) if quick else BUDGETS


def sizes(quick: bool) -> tuple[tuple[int, ...], ...]:
    """Widths at each budget."""
    return ((8, 16, 24),) * 3 if quick else SIZES


def largest(quick: bool) -> int:
    """Width of the held-out run and of the power law in D."""
    return 24 if quick else LARGEST


def steps_of(width: int, flops: float) -> int:
    """Steps of the run of a width at a budget."""
    return round(stable_steps(size(width, 257), flops) / (1 - DECAY))


def in_proportion(quick: bool) -> list[tuple[int, int]]:
    """(width, steps) with as many tokens a parameter as the longest run of the largest size."""
    widths = (8, 16, 24) if quick else FAMILY
    last = steps_of(widths[-1], TIMES * budgets(quick)[-1])
    each = last / size(widths[-1], 257)
    stable = [round(each * size(w, 257) * (1 - DECAY) / UNIT) * UNIT for w in widths[:-1]]
    steps = [*(round(n / (1 - DECAY)) for n in stable), last]
    return list(zip(widths, steps, strict=True))


def doubling(quick: bool) -> list[tuple[int, int]]:
    """(width, steps) of the largest size, a doubling apart."""
    last = TIMES * budgets(quick)[-1]
    width = largest(quick)
    return [(width, steps_of(width, last / 2**k)) for k in reversed(range(3 if quick else 5))]


def heldout_losses(lab: Lab) -> Runs:
    """Train every run of both families and all budgets, each size off one trunk."""
    quick = lab.quick
    ladder: dict[int, list[int]] = {}
    for flops, widths in zip(budgets(quick), sizes(quick), strict=True):
        for width in widths:
            ladder.setdefault(width, []).append(steps_of(width, flops))
    lengths = {width: set(steps) for width, steps in ladder.items()}
    held_out = (largest(quick), steps_of(largest(quick), 4 * budgets(quick)[-1]))
    for width, steps in [*in_proportion(quick), *doubling(quick), held_out]:
        lengths[width].add(steps)
    keys, runs = [], []
    for width in sorted(lengths, reverse=True):
        save = min(round(steps * (1 - DECAY)) for steps in ladder[width])
        for seed in range(lab.seeds):
            trunk = _run(width, max(lengths[width]), save, seed, quick)
            for steps in sorted(lengths[width], reverse=True):
                keys.append((width, steps))
                runs.append((_run(width, steps, save, seed, quick), trunk))
    losses: Runs = {}
    for key, path in zip(keys, lab.train_branches(runs), strict=True):
        losses.setdefault(key, []).append(RunDirectory(path).records()[-1]["heldout_loss"])
    return losses


def measured_ladder(lab: Lab) -> Ladder:
    """The ladder of all budgets, with every seed."""
    runs, points = heldout_losses(lab), []
    for flops, widths in zip(budgets(lab.quick), sizes(lab.quick), strict=True):
        for width in widths:
            steps = steps_of(width, flops)
            tokens = steps * SEQUENCE * BATCH
            for seed, loss in enumerate(runs[width, steps]):
                points.append(Rung(flops, size(width, 257), tokens, loss, seed))
    return analyse(points, source="bytes")


def _run(width: int, steps: int, save: int, seed: int, quick: bool) -> LanguageRecipe:
    if quick:
        return rung_recipe(width, steps, 257, "tiny", seed, save, heldout=4096, warmup=2)
    return rung_recipe(width, steps, 257, "bytes", seed, save)
