"""The training loop: one function that reads from data to checkpoint without a jump.

Every quantity of a step (its samples, its dropout, its rate) is a function of (seed, step), and
every decision a function of the losses seen, so a run that is killed at any moment and resumed is
the run that was not. Systems of every kind train here: what a step does to models and optimisers is the
learner's (`learner.py`), and nobody forks the loop.
"""

import contextlib
import gc
import math
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from types import FrameType
from typing import Any

import torch

from maquette.adaptation.adapters.adapter import final_tensors
from maquette.base.errors import UserError
from maquette.base.files import read_json, write_json
from maquette.base.machine import keep_freed_memory, measure, resident
from maquette.models.store import save_tensors
from maquette.nn import fused, native
from maquette.parallel.group import Group
from maquette.training.checkpoint import Saver, State, newest, read_files
from maquette.training.datasets.dataset import Dataset, fingerprint
from maquette.training.decide import Decisions, keep_compiled_code
from maquette.training.guard import SpikeGuard, Verdict
from maquette.training.heldout import derived_seed, heldout_loss, seed
from maquette.training.learner import Learner, make_learner
from maquette.training.length import lengths_of
from maquette.training.observer import Observer, Quiet, Replan
from maquette.training.prefetch import Ahead
from maquette.training.run import METRICS, OUTCOME, RunDirectory
from maquette.training.run_setup import lengthen
from maquette.training.throughput import Speed, Utilisation
from maquette.training.tracking import MetricsFile, Tracker, open_trackers


@dataclass
class Outcome:
    """Outcome of a call of `train`."""

    step: int
    tokens: int
    loss: float | None
    """loss of the last step that was taken"""
    heldout_loss: float | None
    tokens_per_second: float
    flops_utilisation: float
    """model operations a second over the measured matrix-product peak, at most 1"""
    seconds: float
    """seconds that this call spent in steps"""
    blocked_seconds: float
    """seconds that this call spent waiting for checkpoints"""
    finished: bool
    """whether the last step was reached; False: a signal stopped the run"""


@dataclass
class Stop:
    """Set by SIGTERM or Ctrl-C; training saves and leaves after a step that all ranks agree on."""

    asked: bool = False

    @contextlib.contextmanager
    def listening(self) -> Iterator["Stop"]:
        def ask(number: int, _: FrameType | None) -> None:
            if self.asked and number == signal.SIGINT:
                raise KeyboardInterrupt  # the second Ctrl-C does not wait
            self.asked = True

        try:
            before = {n: signal.signal(n, ask) for n in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:  # not in the main thread: signals are the caller's
            before = {}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def train(
    run: RunDirectory,
    dataset: Dataset,
    decisions: Decisions,
    group: Group | None = None,
    observer: Observer | None = None,
    replan: Replan | None = None,
) -> Outcome:
    """Train the run from its newest checkpoint, or from the start, to its last step.

    replan: may give the run another length after a step, in one process; the run keeps it. The
    caller holds the run's lock. Raises UserError when the disk is full, when no checkpoint is whole,
    and when the loss diverges in spite of skipping and rewinding.
    """
    recipe = run.recipe()
    group, watcher = group or Group(), observer or Quiet()
    device = group.device
    torch.set_num_threads(decisions.threads)
    keep_freed_memory()
    keep_compiled_code()

    resumed = newest(run.checkpoints)
    learner = make_learner(recipe, decisions, device, resumed is None)
    # Rank r scores every world-th held-out batch; the sum does not depend on the number of ranks.
    heldout = [
        learner.read(batch.to(device)) for batch in dataset.heldout()[group.rank :: group.world]
    ]
    guard = SpikeGuard(recipe.guard)
    state = State(fingerprint=fingerprint(dataset), seed=recipe.seed)
    if resumed:
        path, state, damaged = resumed
        learner.load(read_files(path))
        guard = SpikeGuard(recipe.guard, **state.guard)
        if group.first:
            for line in damaged:
                watcher.say(f"{line}; going on from {path.name}")
        if state.fingerprint != fingerprint(dataset):
            raise UserError(f"{path} was trained on another corpus: restore it, or start a new run")

    lengths = lengths_of(run.path)
    flops = recipe.flops_per_unit or decisions.flops
    machine = measure(decisions.device)
    used = Utilisation(machine, decisions.precision, group.world, watcher.say)
    save_steps, eval_steps = lengths.intervals(recipe)
    if state.step >= recipe.last_step and run.finished and (run / OUTCOME).exists():
        return replace(Outcome(**read_json(run / OUTCOME)), finished=True)
    if group.first:
        run.weights.unlink(missing_ok=True)  # of an earlier end: the run goes on
    saver = Saver(run.checkpoints, recipe.checkpoints, save_steps, recipe.guard.patience)
    metrics = MetricsFile(run / METRICS, state.metrics_bytes) if group.first else None
    trackers: list[Tracker] = open_trackers(recipe, run.path, state.step) if group.first else []
    speed, units_per_step = Speed(), recipe.units_per_step
    taken, scored, leave = None, None, False
    if group.first:
        watcher.start(state.step, recipe.last_step)

    with (
        decisions.applied(),
        Ahead(dataset, group.rank, group.world) as ahead,
        Stop().listening() as stop,
    ):
        while state.step < recipe.last_step and not leave:
            rate = lengths.rate(recipe, state.step)
            following = state.sample + recipe.batch
            parts = ahead.take(
                state.sample, following if state.step + 1 < recipe.last_step else None
            )
            parts = [learner.read(part.to(device)) for part in parts]
            seed(derived_seed(recipe.seed, state.sample, group.rank), device)
            if state.step == 0:
                learner.prepare(parts[0], group)

            # Gradients of this rank's share, then of all; the device is waited for where they are summed.
            losses = learner.backward(parts, state.step + 1)
            asked, count, *totals = group.sum(float(stop.asked), losses.count, *losses.totals())
            leave = asked > 0
            if count == 0:
                raise UserError(f"step {state.step + 1}: {learner.model.uncounted}")
            means = losses.means(count, totals)
            loss = means["loss"]
            norm = learner.reduce(group, count)

            # Take the step, skip it, or go back.
            verdict = guard.judge(loss, norm)
            state.sample = following
            if verdict is Verdict.REWIND:
                learner.skip()
                state = _rewind(run, learner, decisions, guard, state, saver, group)
                if metrics is not None:
                    metrics.write({"event": "rewind", "step": state.step, "sample": state.sample})
                watcher.say(
                    f"loss {loss:.3g} after {guard.bad} bad batches: back to step {state.step}, "
                    f"on with the data after them"
                )
                guard.bad = 0
                continue
            if verdict is Verdict.TAKE:
                learner.update(rate, state.step + 1)
                taken = loss
            else:
                learner.skip()
                watcher.say(f"step {state.step + 1}: loss {loss:.3g}, batch skipped")
            state.step += 1
            state.tokens += units_per_step

            # Look, record, save.
            last = state.step == recipe.last_step
            record: dict[str, Any] = {
                "step": state.step,
                recipe.unit: state.tokens,
                **means,
                "gradient_norm": norm,
                "learning_rate": rate,
            }
            if verdict is Verdict.SKIP:
                record["skipped"] = True
            speed.tick(units_per_step)
            if last or state.step % eval_steps == 0:
                with speed.paused(), eager_mode():
                    scored = heldout_loss(learner.score, heldout, group, learner.model.uncounted)
                    record["heldout_loss"] = scored
                    if group.first:
                        watcher.sample(state.step, learner.kept())
            with speed.paused():
                share = used(speed.tokens_per_second * flops)
            record |= {
                f"{recipe.unit}_per_second": round(speed.tokens_per_second, 1),
                "flops_utilisation": round(share, 4),
                "memory": resident()
                if device.type == "cpu"
                else torch.cuda.max_memory_allocated(device),
                "seconds": round(speed.last, 4),
            }
            if metrics is not None:
                state.metrics_bytes = metrics.write(record)
                numbers = {k: v for k, v in record.items() if isinstance(v, float)}
                for tracker in trackers:
                    tracker.log(state.step, numbers)
                watcher.step(record)
                if last or leave or state.step % save_steps == 0:
                    metrics.sync()
                    state.guard = _memory(guard)
                    saver.save(learner.state(), state)
            if replan is not None and not last and (steps := replan(state.step)) is not None:
                recipe = lengthen(run, recipe, state.step, steps, watcher.say)
                lengths = lengths_of(run.path)
            if speed.steps == 1:
                gc.collect()
                gc.freeze()  # what lives to the end is not looked through again
        finished = state.step >= recipe.last_step
        if group.first:
            saver.wait()
            if finished:
                save_tensors(run.weights, final_tensors(learner.kept()))
        if not speed.steps:  # the run ends where it was cut off
            taken = next((r["loss"] for r in reversed(run.records()) if "skipped" not in r), None)
            with eager_mode():
                scored = heldout_loss(learner.score, heldout, group, learner.model.uncounted)
        for tracker in trackers:
            tracker.close()
        if metrics is not None:
            metrics.close()
        group.barrier()
    outcome = Outcome(
        step=state.step,
        tokens=state.tokens,
        loss=taken,
        heldout_loss=scored if math.isfinite(scored or 0.0) else None,
        tokens_per_second=speed.average,
        flops_utilisation=used(speed.average * flops),
        seconds=speed.seconds,
        blocked_seconds=saver.blocked_seconds,
        finished=finished,
    )
    if group.first:
        write_json(run / OUTCOME, asdict(outcome))
    return outcome


@contextlib.contextmanager
def eager_mode() -> Iterator[None]:
    """Context without compiled code and row kernels: every new shape would be compiled."""
    with (
        torch.compiler.set_stance("force_eager"),
        fused.compilation(False),
        native.kernels(False),
    ):
        yield


def _memory(guard: SpikeGuard) -> dict[str, Any]:
    return {k: v for k, v in asdict(guard).items() if k != "settings"}


def _rewind(
    run: RunDirectory,
    learner: Learner,
    decisions: Decisions,
    guard: SpikeGuard,
    state: State,
    saver: Saver,
    group: Group,
) -> State:
    """Restore the newest checkpoint before the bad batches, keeping the current data position."""
    guard.rewinds += 1
    if guard.rewinds > guard.settings.rewinds:
        raise UserError(
            f"the loss diverged {guard.rewinds} times: lower --optimiser.learning-rate "
            f"or --optimiser.clip, or lengthen --schedule.warmup"
        )
    saver.wait()
    group.barrier()
    before = newest(run.checkpoints, state.step - guard.settings.patience, saver.save_steps)
    if before is None:
        if group.first:
            saver.forget(after=0)
        learner.load(make_learner(run.recipe(), decisions, torch.device("cpu")).state())
        guard.go_back({})
        return State(
            0, state.sample, state.fingerprint, state.seed, 0, state.metrics_bytes, state.guard
        )
    path, back, _ = before
    learner.load(read_files(path))
    guard.go_back(back.guard)
    if group.first:
        saver.forget(after=back.step)
    back.sample, back.metrics_bytes = state.sample, state.metrics_bytes
    return back
