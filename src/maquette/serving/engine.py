"""Answers to requests that come and go: continuous batching (Yu et al. 2022, Orca; Kwon et al. 2023, vLLM).

    submit -> waiting -> prefill, in chunks -> live rows, a token each at every step -> done
                             |      ^                        |
                             v      |                        v
                          prompts that begin in the same way (`prefixes.py`)

One step is one token of every live row, then one chunk of the prompts that come next, so that a long
prompt delays the others by a chunk. A row's tokens are what they would be alone: rows end at the same column
(`engine_cache.py`), positions count from each prompt's first token, every row has its own random numbers
(`sampler.py`) and its own weights of adapters. Memory of keys and values is promised for the longest answer
before a prompt is begun, so that no row is ever put off: what does not fit waits, in order. Left out: pages
(a rectangle is as wide as its longest row), swapping out.
"""

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from maquette.base.errors import WrongUse
from maquette.corpus.tokenizer import Tokenizer
from maquette.models.base import LanguageModel
from maquette.serving.engine_cache import Slots
from maquette.serving.engine_groups import Group, Prefill
from maquette.serving.engine_memory import KeyValueMemory, free_memory
from maquette.serving.prefixes import LEAST, Entry, PrefixCache, common
from maquette.serving.request import Full, Request, Row, Scored, Step, opinions
from maquette.serving.restrict import Grammars, Walk, masked
from maquette.serving.row_adapters import GroupKey, RowAdapters
from maquette.serving.sampler import RowSampler, Sampler
from maquette.serving.speculative import check_draft, propose, verify

__all__ = ["Engine", "Full", "Request", "Scored", "Step"]

ROWS = 32  # live at a time
CHUNK = 256  # tokens of prompts a step
QUEUE = 1024  # requests that wait
FIRST = 4  # tokens kept at the start of a full context (Xiao et al. 2023: attention sinks)
DRAFTED = 4  # tokens of a draft a step
SCORED = 128  # positions whose logits are held at a time


class Engine:
    """Answers requests with one model. Not thread-safe: one thread owns it, and the model's adapters.

    memory: bytes of keys and values at most; None: half of what is free. rows: number of requests answered
    at a time. chunk: number of prompt tokens a step. queue: number of requests that may wait. context_shift:
    whether an answer goes on when the context is full, with the middle dropped. draft: a smaller model whose
    tokens the model checks; drafted: number of its tokens a step (`speculative.py`).
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        *,
        memory: int | None = None,
        rows: int = ROWS,
        chunk: int = CHUNK,
        queue: int = QUEUE,
        context_shift: bool = False,
        draft: LanguageModel | None = None,
        drafted: int = DRAFTED,
    ) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.memory = free_memory(model) // 2 if memory is None else memory
        self.rows, self.chunk, self.queue, self.context_shift = rows, chunk, queue, context_shift
        self._draft, self._drafted = draft, 0
        if draft is not None:
            check_draft(model, draft.eval())
            self._drafted = drafted
        self._device = model.device
        self._context, vocabulary = model.config.context, model.config.vocabulary
        self._missing = tokenizer.missing(vocabulary)
        self._hidden = torch.tensor(self._missing, dtype=torch.long, device=self._device)
        self._adapters = RowAdapters(model)
        self._memory = KeyValueMemory(self.memory, model, draft, drafted, self._adapters)
        self._grammars: Grammars | None = None
        self._waiting: deque[Row] = deque()
        self._submitted = 0
        self.passes = 0
        """number of rows that the model was run for after their prompts, a step each"""

    def __len__(self) -> int:
        """Number of requests that wait or are answered."""
        return (
            len(self._waiting)
            + len(self.live)
            + (len(self._memory.prefill.rows) if self._memory.prefill else 0)
        )

    @property
    def prefixes(self) -> PrefixCache:
        """The prompts that are kept for others."""
        return self._memory.prefixes

    @property
    def live(self) -> list[Row]:
        """The rows that get a token at every step."""
        return [row for group in self._memory.groups.values() for row in group.rows]

    def used(self) -> int:
        """Bytes of keys and values that are held, those of shared prompts included."""
        return self._memory.held() + self._memory.prefixes.bytes()

    def submit(self, request: Request) -> int:
        """Take a request; returns its number.

        Raises WrongUse for one that cannot ever be answered, with the numbers, and Full where too many wait.
        """
        if len(self._waiting) >= self.queue:
            raise Full(f"{len(self._waiting)} requests wait already: ask again in a moment")
        row = self._row(request)
        if len(row.tokens) > self._context:
            row.shift(self._context, FIRST)
        key, room = self._adapters.group(row.weights), self._memory.room([row])
        need = sum(self._memory.need(1, room, len(row.tokens), key, empty=True))
        if need > self.memory:
            raise WrongUse(
                f"{len(request.prompt)} tokens and {request.tokens} more take {need:,} bytes of keys and "
                f"values, and the engine has {self.memory:,}: ask for fewer tokens, or give it more memory"
            )
        self._submitted += 1
        self._waiting.append(row)
        return row.number

    @torch.inference_mode()
    def step(self) -> list[Step]:
        """A token of every live row, then a chunk of the prompts that come next."""
        steps: list[Step] = []
        for key in list(self._memory.groups):
            steps += self._decode(key) if self._draft is None else self._speculate(key)
        if self._memory.prefill is None:
            self._admit()
        if self._memory.prefill is not None:
            steps += self._run_chunk(self._memory.prefill)
        return steps

    @torch.inference_mode()
    def cancel(self, request: int) -> None:
        """Forget a request at once; nothing where it is unknown or done."""
        self._waiting = deque(row for row in self._waiting if row.number != request)
        prefill = self._memory.prefill
        if prefill is not None and any(row.number == request for row in prefill.rows):
            # Prompts that are run together are done within a step, but for one that failed.
            self._memory.prefill = None
            others = [row for row in prefill.rows if row.number != request]
            for row in others:
                row.scored.clear()
            self._waiting.extendleft(reversed(others))
            self._memory.forget_empty()
        for key, group in list(self._memory.groups.items()):
            self._leave(key, [n for n, row in enumerate(group.rows) if row.number == request])

    def clear(self) -> None:
        """Forget every request and every kept prompt, whatever state a failed step left them in."""
        self._waiting.clear()
        self._memory.clear()

    def _row(self, request: Request) -> Row:
        """A row for a request. Raises WrongUse where it cannot be."""
        vocabulary = self.model.config.vocabulary
        request.check(vocabulary, self._context, self.context_shift)
        weights = self._adapters.weights(request.adapters)
        walk = None
        if request.answers is not None:
            if self._grammars is None:
                self._grammars = Grammars(self.tokenizer, vocabulary)
            walk = Walk(self._grammars, self._grammars.matcher(request.answers))
        own = request.sampling.row(0)
        sampler = RowSampler(own, self._device, vocabulary, request.prompt)
        return Row(self._submitted, request, self.tokenizer, sampler, walk, weights)

    def _admit(self) -> None:
        """Begin the prompts that come next, as many at a time as make a chunk."""
        chosen: list[Row] = []
        found: list[tuple[Entry | None, int]] = []  # what is known of each, kept until it is laid
        key: GroupKey = ()
        widest = room = longest = 0  # tokens to run of a row, at its end, now
        live = len(self.live)
        while self._waiting and live + len(chosen) < self.rows:
            row = self._waiting[0]
            tokens = row.array()
            entry, known = self._memory.prefixes.find(row.key, tokens[: row.scored_from + 1])
            new = len(tokens) - known
            if chosen:
                if (
                    self._adapters.group(row.weights) != key
                    or (len(chosen) + 1) * max(widest, new) > self.chunk
                ):
                    break
                shared = common(chosen[-1].array(), tokens) if chosen[-1].key == row.key else 0
                if shared - known >= max(LEAST, new // 2):  # it waits for what that one computes
                    break
            room, longest = max(room, self._memory.room([row])), max(longest, len(row.tokens))
            group = self._adapters.group(row.weights)
            held = {e for e, _ in [*found, (entry, known)] if e is not None}
            if not self._memory.fits(len(chosen) + 1, room, longest, group, held):
                if chosen or not self._memory.fits(1, room, longest, group):
                    break
                entry, known, new = None, 0, len(tokens)  # there is no room for what was kept
            key, widest = group, max(widest, new)
            found.append((entry, known))
            chosen.append(self._waiting.popleft())
        if chosen:
            self._begin(chosen, found, key)

    def _begin(
        self, rows: list[Row], found: Sequence[tuple[Entry | None, int]], key: GroupKey
    ) -> None:
        """Lay what is known of the prompts' beginnings: of each an entry, and its number of tokens."""
        longest = max(len(row.tokens) for row in rows)
        growth, _ = self._memory.need(len(rows), self._memory.room(rows), longest, key)
        group = self._memory.groups.setdefault(key, Group())
        if key and group.prefixes is None:
            group.prefixes = self._adapters.prefixes(rows[0].weights)
        lengths = [len(row.tokens) for row in rows]
        past = longest - max(len(row.tokens) - n for row, (_, n) in zip(rows, found, strict=True))
        room = longest if group.slots is not None else self._memory.room(rows)
        slots = Slots(self.model, len(rows), room, group.prefixes)
        slots.begin(lengths, past, [None if entry is None else entry.kept for entry, _ in found])
        padded = [[0] * (longest - len(row.tokens)) + row.tokens for row in rows]
        tokens = torch.tensor(padded, device=self._device)
        self._memory.prefill = Prefill(key, rows, slots, tokens, past, growth)
        for row in rows:
            row.shifted = False

    def _run_chunk(self, prefill: Prefill) -> list[Step]:
        """Run the next columns of the prompts; where they are the last ones, the rows join the others."""
        rows, past = prefill.rows, prefill.past
        new = prefill.tokens[:, past : past + max(1, self.chunk // len(rows))]
        with self._adapters.weighted([row.weights for row in rows]):
            hidden = prefill.slots.run(new)
        prefill.past = past + new.shape[1]
        longest = prefill.tokens.shape[1]
        for number, row in enumerate(rows):
            padding = longest - len(row.tokens)
            self._score(row, hidden[number], past - padding)
        if prefill.past < longest:
            return []
        self._memory.prefill = None
        prefill.slots.settle()
        steps, going = [], list(range(len(rows)))
        for number, row in enumerate(rows):
            first = len(row.scored) - len(row.forced)
            for scored in row.scored[first:] if row.forced else ():
                steps.append(row.step(scored))
            row.forced.clear()
            if row.request.tokens == 0:
                steps.append(Step(row.number, -1, "", 0.0, (), "length", row.prompt()))
                going.remove(number)
            elif steps and steps[-1].request == row.number and steps[-1].finish:
                going.remove(number)
        chosen = [rows[number] for number in going]
        if chosen:
            sampler = Sampler([row.sampler for row in chosen], len(chosen), self._device)
            logits = self.model.logits(hidden[torch.tensor(going, device=self._device), -1])
            steps += self._choose(chosen, sampler, logits)
        done = {step.request for step in steps if step.finish}
        self._join(prefill, done | {row.number for row in rows if row.shifted})
        return steps

    def _score(self, row: Row, hidden: Tensor, first: int) -> None:
        """What the model says of a row's own tokens, from hidden states (new, width) of token `first` on."""
        begin, end = max(row.scored_from, first), min(len(row.tokens) - 1, first + len(hidden))
        for start in range(begin, end, SCORED):
            stop = min(end, start + SCORED)
            logits = self.model.logits(hidden[start - first : stop - first])
            following = torch.tensor(row.tokens[start + 1 : stop + 1], device=self._device)
            row.scored += opinions(logits, following, [row.request.alternatives] * len(following))

    def _join(self, prefill: Prefill, done: set[int]) -> None:
        """Put rows whose prompts are computed among the live ones; keep the prompts for others."""
        group, slots = self._memory.groups[prefill.key], prefill.slots
        going = [n for n, row in enumerate(prefill.rows) if row.number not in done]
        room, target = self._memory.room([prefill.rows[n] for n in going]), group.slots or slots
        capacity = max(target.capacity, len(group.rows) + len(going))
        if capacity > target.capacity or room > target.room:
            for grown in group.all_slots() or [slots]:
                grown.resize(capacity, max(target.room, room))
        if self._draft is not None and group.draft is None:
            group.draft = Slots(self._draft, target.capacity, target.room)
        others = slots.bytes() + self._memory.drafts_once(prefill.rows)
        for number, row in enumerate(prefill.rows):
            self._memory.keep(row, slots, number, others)
        again = [row for row in prefill.rows if row.shifted]
        joined = group.join(slots, prefill.rows, going)
        if group.draft is not None:
            for row in joined:
                group.draft.join(self._drafts(row), 0)
        self._leave(prefill.key, [], again)

    def _drafts(self, row: Row) -> Slots:
        """What a row's tokens leave in the draft model, all but the newest."""
        assert self._draft is not None
        tokens = torch.tensor([row.tokens[:-1]], device=self._device)
        slots = Slots(self._draft, 1, tokens.shape[1])
        slots.begin([tokens.shape[1]], 0, [None])
        for part in tokens.split(self.chunk, 1):
            slots.run(part)
        return slots

    def _decode(self, key: GroupKey) -> list[Step]:
        """A token of every live row of a group."""
        group = self._memory.groups[key]
        if group.slots is None or not group.rows:
            return []
        self.passes += len(group.rows)
        newest = torch.tensor([row.tokens[-1:] for row in group.rows], device=self._device)
        with self._adapters.weighted([row.weights for row in group.rows]):
            hidden = group.slots.run(newest)
        steps = self._choose(group.rows, group.sampler(), self.model.logits(hidden[:, -1]))
        self._end(key, {step.request for step in steps if step.finish})
        return steps

    def _speculate(self, key: GroupKey) -> list[Step]:
        """The tokens of every live row of a group that the model keeps of its draft, and one more."""
        group, g = self._memory.groups[key], self._drafted
        if group.slots is None or group.draft is None or not group.rows:
            return []
        rows = group.rows
        self.passes += len(rows)
        newest = torch.tensor([row.tokens[-1:] for row in rows], device=self._device)
        drafted, q = propose(group.draft, newest, group.sampler(), g)
        with self._adapters.weighted([row.weights for row in rows]):
            hidden = group.slots.run(torch.cat([newest, drafted], 1))
        before = [row.said for row in rows]
        steps: list[Step] = []
        going = list(range(len(rows)))
        for place in range(g + 1):
            at = torch.tensor(going, device=self._device)
            own = [rows[n] for n in going]
            sampler = Sampler([row.sampler for row in own], len(own), self._device)
            against = (q[at, place], drafted[at, place]) if place < g else None
            logits = self.model.logits(hidden[at, place])
            new, kept = self._checked(own, sampler, logits, against)
            steps += new
            going = [
                n for n, step, keep in zip(going, new, kept, strict=True)
                if keep and not step.finish and not rows[n].shifted
            ]  # fmt: skip
            if not going:
                break
        back = [g + 1 - (row.said - said) for row, said in zip(rows, before, strict=True)]
        for slots in group.all_slots():
            slots.take_back(back)
        self._end(key, {step.request for step in steps if step.finish})
        return steps

    def _choose(self, rows: Sequence[Row], sampler: Sampler, logits: Tensor) -> list[Step]:
        """The next token of every row, from logits (rows, vocabulary)."""
        return self._checked(rows, sampler, logits, None)[0]

    def _checked(
        self,
        rows: Sequence[Row],
        sampler: Sampler,
        logits: Tensor,
        against: tuple[Tensor, Tensor] | None,
    ) -> tuple[list[Step], list[bool]]:
        """The next token of every row, and whether it is the drafted one.

        against: distributions (rows, vocabulary) of the draft and the tokens (rows,) drawn from them.
        """
        if self._missing:
            logits = logits.index_fill(-1, self._hidden, -torch.inf)
        allowed, walks = logits, [row.walk for row in rows]
        if any(walk is not None for walk in walks):
            allowed = masked(logits, walks)
        kept = [False] * len(rows)
        if against is None:
            chosen = sampler(allowed)
        else:
            states = [row.sampler for row in rows]
            chosen, kept = verify(sampler.distribution(allowed), *against, states)
        steps = []
        wanted = [row.request.alternatives for row in rows]
        for row, scored in zip(rows, opinions(logits, chosen, wanted), strict=True):
            row.tokens.append(scored.token)
            steps.append(row.step(scored))
            if len(row.tokens) > self._context and not steps[-1].finish:
                row.shift(self._context, FIRST)
        return steps, kept

    def _end(self, key: GroupKey, done: set[int]) -> None:
        """Take out the rows that are done, and those whose context was shifted."""
        group = self._memory.groups[key]
        assert group.slots is not None
        for number, row in enumerate(group.rows):
            if (
                row.number in done and row.said >= LEAST
            ):  # a conversation's next turn begins with it
                self._memory.keep(row, group.slots, number)
        gone = [n for n, row in enumerate(group.rows) if row.number in done or row.shifted]
        self._leave(key, gone)

    def _leave(self, key: GroupKey, numbers: Sequence[int], again: Sequence[Row] = ()) -> None:
        """Take rows out of a group; rows whose context was shifted are computed again, before all others."""
        gone = self._memory.groups[key].leave(numbers)
        self._waiting.extendleft(row for row in [*gone, *again] if row.shifted)
        self._memory.forget_empty()
