"""The learning rate at each step, as a fraction of the peak. Never zero, from the first step on.

Cosine: Loshchilov and Hutter 2017. Warm-up, stable, decay: Hu et al. 2024 (MiniCPM), with the
linear decay of Hagele et al. 2024.
"""

import math

from maquette.training.recipe import Schedule


def learning_rate_factor(schedule: Schedule, step: int, steps: int) -> float:
    """Factor of the learning rate for the update after `step` of `steps` steps."""
    warmup = max(1, round(schedule.warmup * steps))
    if step < warmup:
        return (step + 1) / warmup
    if schedule.kind == "constant":
        return 1.0
    start = decay_start(schedule, steps) if schedule.kind == "wsd" else warmup
    if step < start:
        return 1.0
    done = (step + 1 - start) / (steps + 1 - start)  # below 1 at the last step
    fall = (1 + math.cos(math.pi * done)) / 2 if schedule.kind == "cosine" else 1 - done
    return schedule.floor + (1 - schedule.floor) * fall


def decay_start(schedule: Schedule, steps: int) -> int:
    """Number of steps before the decay of the schedule wsd."""
    return steps - max(1, round(schedule.decay * steps))


def warm_stable_decay(steps: int, warmup: int, decay: float = 0.2, floor: float = 0.0) -> Schedule:
    """The schedule wsd that warms up for `warmup` steps whatever its length.

    Runs of several lengths then have the same rates until the shorter one's decay begins.
    """
    return Schedule(kind="wsd", warmup=warmup / steps, decay=decay, floor=floor)
