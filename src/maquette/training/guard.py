"""Loss spikes: skip a batch whose loss is not finite or jumps, then rewind, then stop.

A bad batch is skipped: its gradient is dropped and the data move on. When several in a row are
bad, the weights are at fault: training returns to the checkpoint before the first of them and
goes on with the data after the last, as PaLM did (Chowdhery et al. 2022, section 5.1). All of it
is a function of the losses seen, so a resumed run decides the same.

A jump is measured against the spread of the last losses that were taken, once there are enough of them
(`Guard.window`). Near 0 that spread says little: one new example among many that are known by heart is far
outside it. So a spike is also a loss of some size (`FLOOR`), and what the weights have unlearned by going
back, the losses of later weights are forgotten with.
"""

import math
import statistics
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from maquette.training.recipe import Guard

FLOOR = 0.5
"""loss below which none is a spike: nats a token or a label, or half the error of predicting nothing of unit
noise"""


class Verdict(Enum):
    """Decision about a batch."""

    TAKE = "take"
    SKIP = "skip"
    REWIND = "rewind"


@dataclass
class SpikeGuard:
    """Judges each step's loss and gradient norm. Its fields are saved with every checkpoint."""

    settings: Guard
    recent: list[float] = field(default_factory=list)
    bad: int = 0
    """number of bad batches in a row"""
    rewinds: int = 0

    def judge(self, loss: float, norm: float) -> Verdict:
        """Decide, and remember the loss if it is taken."""
        if math.isfinite(loss) and math.isfinite(norm) and not self._spike(loss):
            self.recent = [*self.recent, loss][-self.settings.window :]
            self.bad = 0
            return Verdict.TAKE
        self.bad += 1
        return Verdict.REWIND if self.bad > self.settings.patience else Verdict.SKIP

    def go_back(self, memory: dict[str, Any]) -> None:
        """Take the losses of the weights that training has gone back to; memory: as the checkpoint has it."""
        self.recent = list(memory.get("recent", ()))

    def _spike(self, loss: float) -> bool:
        settings = self.settings
        if settings.spike <= 0 or len(self.recent) < settings.window or loss < FLOOR:
            return False
        mean = statistics.fmean(self.recent)
        spread = statistics.pstdev(self.recent)
        return loss > mean + settings.spike * max(spread, 0.01 * mean)
