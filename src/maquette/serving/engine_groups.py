"""Rows that an engine computes together: the ones that are answered, and the prompts that come next."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from maquette.nn.attention import Prefix
from maquette.serving.engine_cache import Slots
from maquette.serving.request import Row
from maquette.serving.row_adapters import GroupKey
from maquette.serving.sampler import Sampler


@dataclass
class Prefill:
    """Prompts whose keys and values are being computed."""

    key: GroupKey
    rows: list[Row]
    slots: Slots
    tokens: Tensor  # (rows, longest), padding before
    past: int
    """number of columns that are computed"""
    growth: int
    """number of bytes by which the group's rectangles will grow"""


@dataclass
class Group:
    """Rows that are answered; adapters put the same keys and values before all of them."""

    rows: list[Row] = field(default_factory=list)
    slots: Slots | None = None
    draft: Slots | None = None
    """the same rows of the draft model"""
    prefixes: Sequence[Prefix] | None = None
    _sampler: Sampler | None = None

    def all_slots(self) -> list[Slots]:
        """The rectangles of the model and of the draft, where there are any."""
        return [slots for slots in (self.slots, self.draft) if slots is not None]

    def bytes(self) -> int:
        """Number of bytes that the rectangles take."""
        return sum(slots.bytes() for slots in self.all_slots())

    def sampler(self) -> Sampler:
        """The sampler of the rows."""
        if self._sampler is None:
            states = [row.sampler for row in self.rows]
            self._sampler = Sampler(states, len(states), states[0].generator.device)
        return self._sampler

    def resize(self, capacity: int, room: int) -> None:
        """Make the rectangles larger or smaller."""
        for slots in self.all_slots():
            slots.resize(capacity, room)

    def join(self, slots: Slots, rows: list[Row], going: Sequence[int]) -> list[Row]:
        """Take some rows of other slots, which may become the group's; returns them in their order."""
        if self.slots is None:
            self.slots = slots
            for number in reversed(range(len(rows))):
                if number not in going:
                    slots.leave(number)
                    rows[number] = rows[-1]
                    rows.pop()
        else:
            for number in going:
                self.slots.join(slots, number)
            rows = [rows[number] for number in going]
        self.rows += rows
        self._sampler = None
        return rows

    def leave(self, numbers: Sequence[int]) -> list[Row]:
        """Take rows out; returns them."""
        gone = [self.rows[number] for number in numbers]
        for number in sorted(numbers, reverse=True):
            for slots in self.all_slots():
                slots.leave(number)
            self.rows[number] = self.rows[-1]
            self.rows.pop()
            self._sampler = None
        return gone
