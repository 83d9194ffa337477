"""What keys and values an engine holds, in bytes: rows, prompts being computed, prompts kept for others.

Room for the longest answer is promised before a prompt is begun. Prompts that are kept take what is left, and
give it back first.
"""

from collections.abc import Collection, Sequence

import torch

from maquette.base import machine
from maquette.models.base import LanguageModel
from maquette.serving.engine_cache import Slots
from maquette.serving.engine_groups import Group, Prefill
from maquette.serving.prefixes import LEAST, Entry, PrefixCache
from maquette.serving.request import Row
from maquette.serving.row_adapters import GroupKey, RowAdapters


class KeyValueMemory:
    """The groups of rows of an engine, the prompts it computes and keeps, within a budget of bytes.

    drafted: number of tokens that a draft model runs ahead.
    """

    def __init__(
        self,
        budget: int,
        model: LanguageModel,
        draft: LanguageModel | None,
        drafted: int,
        adapters: RowAdapters,
    ) -> None:
        self.budget, self._context = budget, model.config.context
        self._drafted, self._adapters = drafted if draft else 0, adapters
        self._own = model.kv_bytes_per_token()
        self._draft = 0 if draft is None else draft.kv_bytes_per_token()
        self.groups: dict[GroupKey, Group] = {}
        self.prefill: Prefill | None = None
        self.prefixes = PrefixCache(self._own)

    def held(self) -> int:
        """Bytes of the keys and values of rows, with those promised to the prompts being computed."""
        held = sum(group.bytes() for group in self.groups.values())
        return held + (self.prefill.slots.bytes() + self.prefill.growth if self.prefill else 0)

    def room(self, rows: Sequence[Row]) -> int:
        """Number of tokens that the longest of the rows will have, and those drafted after it."""
        return max((row.total(self._context) + self._drafted for row in rows), default=0)

    def need(
        self, count: int, room: int, longest: int, key: GroupKey, empty: bool = False
    ) -> tuple[int, int]:
        """Bytes by which rows make a group's rectangles grow, and those of their prompts until then.

        room, longest: number of tokens of the longest row at its end, and of its prompt. empty: whether the
        group is taken to have no rows.
        """
        laid = self._adapters.length(key) * self._own  # bytes before a row's tokens
        once = longest * self._draft  # the draft reads one prompt after the other
        slots = self.groups[key].slots if key in self.groups and not empty else None
        if slots is None:  # the prompts' own rectangle becomes the group's
            return count * room * self._draft + once, count * (laid + room * self._own)
        each = self._own + self._draft
        before = slots.capacity * (laid + slots.room * each)
        capacity = max(slots.capacity, len(slots.lengths) + count)
        grown = capacity * (laid + max(slots.room, room) * each)
        return grown - before + once, count * (laid + longest * self._own)

    def fits(
        self,
        count: int,
        room: int,
        longest: int,
        key: GroupKey,
        held: Collection[Entry] = (),
    ) -> bool:
        """Make room for rows to be begun, from what kept prompts take; whether there is enough.

        held: kept prompts that the rows begin with, which stay.
        """
        stay = self.prefixes.bytes_of(held)
        left = self.budget - self.held() - sum(self.need(count, room, longest, key))
        if left < stay:
            for group in self.groups.values():
                group.resize(len(group.rows), self.room(group.rows))
            left = self.budget - self.held() - sum(self.need(count, room, longest, key))
        if left < stay:
            return False
        self.prefixes.shrink(left, held)
        return True

    def keep(self, row: Row, slots: Slots, number: int, others: int = 0) -> None:
        """Keep what a row's tokens left, for prompts that begin with them, if there is room.

        others: bytes that are needed and not counted as held.
        """
        tokens = row.array()[: slots.lengths[number]]
        left = self.budget - self.held() - others - len(tokens) * self._own
        if len(tokens) < LEAST or left < 0 or row.shifted or self.prefixes.holds(row.key, tokens):
            return
        self.prefixes.shrink(left)
        self.prefixes.add(Entry(row.key, tokens, slots.kept(number, len(tokens))))

    def drafts_once(self, rows: Sequence[Row]) -> int:
        """Bytes that the draft takes to read one of the rows' prompts."""
        return max((len(row.tokens) for row in rows), default=0) * self._draft

    def clear(self) -> None:
        """Free everything: rows, prompts being computed, prompts kept."""
        self.groups.clear()
        self.prefill = None
        self.prefixes.clear()

    def forget_empty(self) -> None:
        """Free what groups without rows hold."""
        prefilled = self.prefill.key if self.prefill else None
        for key, group in list(self.groups.items()):
            if not group.rows:
                group.slots = group.draft = None
                if key != prefilled:
                    del self.groups[key]


def free_memory(model: LanguageModel) -> int:
    """Bytes of memory that nothing uses, where the model is."""
    device = model.device
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return machine.available()
