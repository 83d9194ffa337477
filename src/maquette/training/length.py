"""Changes of a run's length while it runs, and what they do to the learning rate.

A schedule is a fraction of the run's steps, so another length is another rate from that step on: a
cosine that had fallen to its floor rises again. Every change is kept in `lengths.json` with the rate
before and after it. The rate of a step is a function of the step and of these records, so that a run
that is killed after a change and resumed, from before it too, is the run that was not.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from maquette.base.errors import UserError, WrongUse
from maquette.base.files import read_json, write_json
from maquette.training.checkpoint import saved_steps
from maquette.training.recipe import Recipe
from maquette.training.schedule import learning_rate_factor

LENGTHS = "lengths.json"
SAME = 0.01  # relative: a rate that moves by less goes on as it was


@dataclass(frozen=True)
class LengthChange:
    """A change of a run's length at `step`: its schedule has `before` steps until then, then `after`."""

    step: int
    before: int
    after: int
    rate_before: float
    """learning rate of the last step with the old length"""
    rate_after: float
    """learning rate of the first step with the new length"""
    rate_last: float
    """learning rate of the last step with the new length"""

    def line(self, kind: str) -> str:
        """The change as a line for the user; kind: kind of the schedule."""
        ratio = self.rate_after / self.rate_before if self.rate_before else 1.0
        if abs(ratio - 1) <= SAME:
            moves = f"goes on at {self.rate_after:.2g}"
        else:
            moves = (
                f"{'rises' if ratio > 1 else 'falls'} from {self.rate_before:.2g} to "
                f"{self.rate_after:.2g}"
            )
        text = (
            f"{self.after:,} steps in place of {self.before:,}: the {kind} schedule is stretched, so at "
            f"step {self.step + 1:,} the learning rate {moves}; it ends at {self.rate_last:.2g}"
        )
        if ratio > 1 + SAME and kind != "constant":
            text += " (a new run of that length would not have fallen before)"
        return text


@dataclass(frozen=True)
class Lengths:
    """The changes of a run, in the order they were made."""

    changes: tuple[LengthChange, ...] = ()

    def at(self, step: int, steps: int) -> int:
        """Length of the run for the update after `step` finished steps; steps: the current length."""
        for change in self.changes:
            if step < change.step:
                return change.before
        return steps

    def intervals(self, recipe: Recipe) -> tuple[int, int]:
        """Steps between saves, and between evaluations: of the first length, as rewinds take multiples."""
        tenth = max(1, self.at(0, recipe.steps) // 10)
        return recipe.checkpoints.every or tenth, recipe.watch.every or tenth

    def rate(self, recipe: Recipe, step: int) -> float:
        """Learning rate of the update after `step` finished steps."""
        factor = learning_rate_factor(recipe.schedule, step, self.at(step, recipe.steps))
        return recipe.optimiser.learning_rate * factor


def lengths_of(run: Path) -> Lengths:
    """The changes of length that a run directory records."""
    if not (run / LENGTHS).exists():
        return Lengths()
    try:
        return Lengths(tuple(LengthChange(**entry) for entry in read_json(run / LENGTHS)))
    except TypeError as error:
        raise UserError(f"{run / LENGTHS} is damaged: restore it, or start a new run") from error


def reached(run: Path) -> int:
    """The step of the newest checkpoint; 0 where there is none."""
    return max(saved_steps(run / "checkpoints"), default=0)


def change_length(run: Path, own: Recipe, wanted: Recipe, step: int) -> LengthChange | None:
    """Record that the run has `wanted.steps` steps from `step` on; None where nothing changes.

    The caller writes the recipe afterwards; killed in between, the run goes on with its old length.
    """
    if own.steps == wanted.steps:
        return None
    if step == 0:  # the run begins anew, with that length
        (run / LENGTHS).unlink(missing_ok=True)
        return None
    before = lengths_of(run)
    kept = Lengths(tuple(c for c in before.changes if c.step < step))
    old = before.at(step - 1, own.steps)
    if old == wanted.steps:  # as it was before a change that no step has seen
        write_json(run / LENGTHS, [asdict(earlier) for earlier in kept.changes])
        return None

    def rate(at: int, steps: int) -> float:
        return own.optimiser.learning_rate * learning_rate_factor(own.schedule, at, steps)

    change = LengthChange(
        step,
        old,
        wanted.steps,
        rate(step - 1, old),
        rate(step, wanted.steps) if step < wanted.steps else rate(step - 1, wanted.steps),
        rate(wanted.last_step - 1, wanted.steps),
    )
    write_json(run / LENGTHS, [asdict(earlier) for earlier in (*kept.changes, change)])
    return change


def check_end(run: Path, own: Recipe, wanted: Recipe) -> None:
    """Raise WrongUse where a run would have to end before the step that it has reached."""
    step, last = reached(run), wanted.last_step
    if last >= step or last == own.last_step:
        return
    flag = "--stop" if wanted.stop is not None and wanted.stop != own.stop else "--steps"
    raise WrongUse(
        f"{run} is at step {step:,}, and {flag} {last:,} would end it before: leave {flag} out, use "
        f"{step:,} or more, or start a new run"
    )


def nothing_left(recipe: Recipe, step: int) -> str:
    """One line for a finished run that is asked to go on."""
    if recipe.stop is not None and recipe.stop < recipe.steps:
        return (
            f"it is at step {step:,}, where --stop ends it: nothing is left to do; --stop with a later "
            f"step (or None, for all {recipe.steps:,}) goes on"
        )
    return (
        f"it has taken its {recipe.steps:,} steps: nothing is left to do; --steps with more goes on"
    )
