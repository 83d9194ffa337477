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

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from maquette.adaptation.adapters.adapter import adapters_of
from maquette.adaptation.adapters.prefix import LanguageAdapter
from maquette.base.errors import WrongUse, did_you_mean
from maquette.base.machine import memory as machine_memory
from maquette.base.machine import resident
from maquette.corpus.tokenizer import Tokenizer
from maquette.models.base import LanguageModel
from maquette.nn.attention import Prefix
from maquette.serving.engine_cache import Slots
from maquette.serving.prefixes import LEAST, Entry, PrefixCache, common
from maquette.serving.request import Full, Request, Row, Scored, Step, opinions
from maquette.serving.restrict import Grammars, Walk, masked
from maquette.serving.sampler import RowSampler, Sampler

__all__ = ["Engine", "Full", "Request", "Scored", "Step"]

ROWS = 32  # live at a time
CHUNK = 256  # tokens of prompts a step
QUEUE = 1024  # requests that wait
FIRST = 4  # tokens kept at the start of a full context (Xiao et al. 2023: attention sinks)
SCORED = 128  # positions whose logits are held at a time

GroupKey = tuple[tuple[str, float], ...]


@dataclass
class Group:
    """Rows that are computed together: adapters put the same keys and values before them."""

    rows: list[Row] = field(default_factory=list)
    slots: Slots | None = None
    prefixes: Sequence[Prefix] | None = None
    sampler: Sampler | None = None


@dataclass
class Prefill:
    """Prompts whose keys and values are being computed."""

    key: GroupKey
    rows: list[Row]
    slots: Slots
    tokens: Tensor  # (rows, longest), padding before
    past: int
    growth: int
    """number of bytes by which the group's rectangle will grow"""


class Engine:
    """Answers requests with one model. Not thread-safe: one thread owns it, and the model's adapters.

    memory: bytes of keys and values at most; None: half of what is free. rows: number of requests answered
    at a time. chunk: number of prompt tokens a step. queue: number of requests that may wait. context_shift:
    whether an answer goes on when the context is full, with the middle dropped.
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
    ) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.memory = _free(model) // 2 if memory is None else memory
        self.rows, self.chunk, self.queue, self.context_shift = rows, chunk, queue, context_shift
        self.prefixes = PrefixCache(model.kv_bytes_per_token())
        self._device = model.embedding.weight.device
        self._context, vocabulary = model.config.context, model.config.vocabulary
        self._missing = tokenizer.missing(vocabulary)
        self._hidden = torch.tensor(self._missing, dtype=torch.long, device=self._device)
        self._adapters = {
            name: adapter
            for name, adapter in adapters_of(model).items()
            if not adapter.off or isinstance(adapter.weight, Tensor) or adapter.weight == 0
        }  # without those that are merged into the weights
        self._grammars: Grammars | None = None
        self._waiting: deque[Row] = deque()
        self._prefill: Prefill | None = None
        self._groups: dict[GroupKey, Group] = {}
        self._submitted = 0

    def __len__(self) -> int:
        """Number of requests that wait or are answered."""
        return (
            len(self._waiting) + len(self.live) + (len(self._prefill.rows) if self._prefill else 0)
        )

    @property
    def live(self) -> list[Row]:
        """The rows that get a token at every step."""
        return [row for group in self._groups.values() for row in group.rows]

    def used(self) -> int:
        """Bytes of keys and values that are held, those of shared prompts included."""
        return self._held() + self.prefixes.bytes()

    def submit(self, request: Request) -> int:
        """Take a request; returns its number.

        Raises WrongUse for one that cannot ever be answered, with the numbers, and Full where too many wait.
        """
        if len(self._waiting) >= self.queue:
            raise Full(f"{len(self._waiting)} requests wait already: ask again in a moment")
        row = self._row(request)
        if len(row.tokens) > self._context:
            row.shift(self._context, FIRST)
        need = row.total(self._context) * self.model.kv_bytes_per_token()
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
        for key in list(self._groups):
            steps += self._decode(key)
        if self._prefill is None:
            self._admit()
        if self._prefill is not None:
            steps += self._run_chunk(self._prefill)
        return steps

    @torch.inference_mode()
    def cancel(self, request: int) -> None:
        """Forget a request at once; nothing where it is unknown or done."""
        self._waiting = deque(row for row in self._waiting if row.number != request)
        if self._prefill is not None and any(r.number == request for r in self._prefill.rows):
            assert len(self._prefill.rows) == 1, "prompts run together are done within a step"
            self._prefill = None
            self._forget_empty()
        for key, group in list(self._groups.items()):
            for number, row in enumerate(group.rows):
                if row.number == request:
                    self._leave(key, [number])
                    break

    def _row(self, request: Request) -> Row:
        """A row for a request. Raises WrongUse where it cannot be."""
        vocabulary, sampling = self.model.config.vocabulary, request.sampling.row(0)
        if not request.prompt:
            raise WrongUse("the prompt has no tokens: give one, such as the BOS or EOS token")
        if request.tokens < (not request.prompt_log_probabilities):
            raise WrongUse(f"tokens is {request.tokens}: ask for at least 1")
        if request.forced and len(request.forced) >= request.tokens:
            raise WrongUse(
                f"the answer begins with {len(request.forced)} tokens, and {request.tokens} are asked for: "
                f"ask for more"
            )
        named = (*request.prompt, *request.forced, *sampling.logit_bias)
        beyond = next((token for token in named if not 0 <= token < vocabulary), None)
        if beyond is not None:
            raise WrongUse(
                f"token {beyond} is not in the vocabulary, which ends at {vocabulary - 1}: leave it out"
            )
        longest = len(request.prompt) + request.tokens
        shifts = self.context_shift and not (request.forced or request.prompt_log_probabilities)
        if longest > self._context and not shifts:
            raise WrongUse(
                f"the prompt ({len(request.prompt)} tokens) and {request.tokens} more do not fit the model's "
                f"context of {self._context}: ask for at most "
                f"{max(0, self._context - len(request.prompt))} tokens, or shorten the prompt"
            )
        weights = {name: adapter.weight for name, adapter in self._adapters.items()}
        for name, weight in request.adapters.items():
            if name not in self._adapters:
                known = did_you_mean(name, self._adapters)
                raise WrongUse(f"no adapter is called {name}{known}")
            self._adapters[name].check_weight(weight)
            weights[name] = weight
        numbers = {name: float(weight) for name, weight in weights.items()}
        walk = None
        if request.answers is not None:
            if self._grammars is None:
                self._grammars = Grammars(self.tokenizer, vocabulary)
            walk = Walk(self._grammars, self._grammars.matcher(request.answers))
        sampler = RowSampler(sampling, self._device, vocabulary, request.prompt)
        return Row(self._submitted, request, self.tokenizer, sampler, walk, numbers)

    def _group_key(self, row: Row) -> GroupKey:
        """The weights of the adapters that put keys and values before a row."""
        return tuple(
            (name, weight)
            for name, weight in row.key
            if weight and isinstance(self._adapters[name], LanguageAdapter)
        )

    def _admit(self) -> None:
        """Begin the prompts that come next, as many at a time as make a chunk."""
        chosen: list[Row] = []
        key: GroupKey = ()
        widest = 0  # tokens to run of a row
        live = len(self.live)
        while self._waiting and live + len(chosen) < self.rows:
            row = self._waiting[0]
            tokens = row.array()
            _, known = self.prefixes.find(row.key, tokens[: row.scored_from + 1])
            new = len(tokens) - known
            if chosen:
                if self._group_key(row) != key or (len(chosen) + 1) * max(widest, new) > self.chunk:
                    break
                shared = common(chosen[-1].array(), tokens) if chosen[-1].key == row.key else 0
                if shared - known >= max(LEAST, new // 2):  # it waits for what that one computes
                    break
            if not self._fits([*chosen, row], self._group_key(row)):
                break
            key, widest = self._group_key(row), max(widest, new)
            chosen.append(self._waiting.popleft())
        if chosen:
            self._begin(chosen, key)

    def _held(self) -> int:
        """Bytes of the keys and values of rows, with those promised to the prompts being computed."""
        held = sum(group.slots.bytes() for group in self._groups.values() if group.slots)
        return held + (self._prefill.slots.bytes() + self._prefill.growth if self._prefill else 0)

    def _fits(self, rows: Sequence[Row], key: GroupKey) -> bool:
        """Make room for rows to be begun, from what shared prompts take; whether there is enough."""
        left = self.memory - self._held() - sum(self._need(rows, key))
        if left < 0:
            for group in self._groups.values():
                if group.slots:
                    group.slots.resize(len(group.rows), self._room(group.rows))
            left = self.memory - self._held() - sum(self._need(rows, key))
        if left < 0:
            return False
        self.prefixes.shrink(left)
        return True

    def _need(self, rows: Sequence[Row], key: GroupKey) -> tuple[int, int]:
        """Bytes by which rows make a group's rectangle grow, and those of their prompts until then."""
        each = self.model.kv_bytes_per_token()
        before = sum(self._adapters[name].config.length for name, _ in key)  # type: ignore[attr-defined]
        slots = self._groups[key].slots if key in self._groups else None
        if slots is None:  # the prompts' own rectangle becomes the group's
            return 0, len(rows) * (before + self._room(rows)) * each
        capacity = max(slots.capacity, len(slots.lengths) + len(rows))
        room = max(slots.room, self._room(rows))
        longest = max(len(row.tokens) for row in rows)
        growth = capacity * (before + room) * each - slots.bytes()
        return growth, len(rows) * (before + longest) * each

    def _room(self, rows: Sequence[Row]) -> int:
        """Number of tokens that the longest of the rows will have."""
        return max((row.total(self._context) for row in rows), default=0)

    def _begin(self, rows: list[Row], key: GroupKey) -> None:
        """Lay what is known of the prompts' beginnings."""
        growth, _ = self._need(rows, key)
        group = self._groups.setdefault(key, Group())
        if key and group.prefixes is None:
            group.prefixes = self._prefixes(rows[0])
        lengths = [len(row.tokens) for row in rows]
        longest = max(lengths)
        found = [self.prefixes.find(row.key, row.array()[: row.scored_from + 1]) for row in rows]
        past = longest - max(len(row.tokens) - n for row, (_, n) in zip(rows, found, strict=True))
        room = longest if group.slots is not None else self._room(rows)
        slots = Slots(self.model, len(rows), room, group.prefixes)
        slots.begin(lengths, past, [None if entry is None else entry.kept for entry, _ in found])
        padded = [[0] * (longest - len(row.tokens)) + row.tokens for row in rows]
        tokens = torch.tensor(padded, device=self._device)
        self._prefill = Prefill(key, rows, slots, tokens, past, growth)
        for row in rows:
            row.shifted = False

    def _prefixes(self, row: Row) -> list[Prefix]:
        """What adapters put before a row, one of each block."""
        cache = self.model.cache(1, 1)
        with self._weighted([row], prefixes=True):
            self.model.hidden(torch.tensor([row.tokens[:1]], device=self._device), cache=cache)
        return [layer.prefix for layer in cache]

    def _run_chunk(self, prefill: Prefill) -> list[Step]:
        """Run the next columns of the prompts; where they are the last ones, the rows join the others."""
        rows, past = prefill.rows, prefill.past
        new = prefill.tokens[:, past : past + max(1, self.chunk // len(rows))]
        with self._weighted(rows):
            hidden = prefill.slots.run(new)
        prefill.past = past + new.shape[1]
        longest = prefill.tokens.shape[1]
        for number, row in enumerate(rows):
            padding = longest - len(row.tokens)
            self._score(row, hidden[number], past - padding)
        if prefill.past < longest:
            return []
        self._prefill = None
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
        group, slots = self._groups[prefill.key], prefill.slots
        going = [n for n, row in enumerate(prefill.rows) if row.number not in done]
        room, target = self._room([prefill.rows[n] for n in going]), group.slots or slots
        capacity = max(target.capacity, len(group.rows) + len(going))
        if capacity > target.capacity or room > target.room:
            target.resize(capacity, max(target.room, room))
        for number, row in enumerate(prefill.rows):
            self._keep(row, slots, number, slots.bytes())
        if group.slots is None:
            group.slots, group.rows = slots, list(prefill.rows)
            self._leave(prefill.key, [n for n in range(len(prefill.rows)) if n not in going])
        else:
            for n in going:
                group.slots.join(slots, n)
                group.rows.append(prefill.rows[n])
            self._wait_again([row for row in prefill.rows if row.shifted])
        group.sampler = None

    def _keep(self, row: Row, slots: Slots, number: int, others: int = 0) -> None:
        """Keep what a row's tokens left, for prompts that begin with them, if there is room.

        others: bytes that are held and not counted.
        """
        tokens = row.array()[: slots.lengths[number]]
        size = len(tokens) * self.model.kv_bytes_per_token()
        left = self.memory - self._held() - others - size
        if len(tokens) < LEAST or left < 0 or row.shifted or self.prefixes.holds(row.key, tokens):
            return
        self.prefixes.shrink(left)
        self.prefixes.add(Entry(row.key, tokens, slots.kept(number, len(tokens))))

    def _decode(self, key: GroupKey) -> list[Step]:
        """A token of every live row of a group."""
        group = self._groups[key]
        if group.slots is None or not group.rows:
            return []
        rows = group.rows
        if group.sampler is None:
            group.sampler = Sampler([row.sampler for row in rows], len(rows), self._device)
        newest = torch.tensor([row.tokens[-1:] for row in rows], device=self._device)
        with self._weighted(rows):
            hidden = group.slots.run(newest)
        steps = self._choose(rows, group.sampler, self.model.logits(hidden[:, -1]))
        for number, (row, step) in enumerate(zip(rows, steps, strict=True)):
            if (
                step.finish and row.said >= LEAST
            ):  # what comes next in a conversation begins with it
                self._keep(row, group.slots, number)
        gone = [n for n, s in enumerate(steps) if s.finish or rows[n].shifted]
        self._leave(key, gone)
        return steps

    def _choose(self, rows: Sequence[Row], sampler: Sampler, logits: Tensor) -> list[Step]:
        """The next token of every row, from logits (rows, vocabulary)."""
        if self._missing:
            logits = logits.index_fill(-1, self._hidden, -torch.inf)
        allowed = logits
        walks = [row.walk for row in rows]
        if any(walk is not None for walk in walks):
            allowed = masked(logits, walks)
        chosen = sampler(allowed)
        steps = []
        wanted = [row.request.alternatives for row in rows]
        for row, scored in zip(rows, opinions(logits, chosen, wanted), strict=True):
            row.tokens.append(scored.token)
            steps.append(row.step(scored))
            if len(row.tokens) > self._context and not steps[-1].finish:
                row.shift(self._context, FIRST)
        return steps

    def _leave(self, key: GroupKey, numbers: Sequence[int]) -> None:
        """Take rows out of a group."""
        group = self._groups[key]
        assert group.slots is not None
        gone = [group.rows[number] for number in numbers]
        for number in sorted(numbers, reverse=True):
            group.slots.leave(number)
            last = group.rows.pop()
            if number < len(group.rows):
                group.rows[number] = last
            group.sampler = None
        self._wait_again([row for row in gone if row.shifted])
        self._forget_empty()

    def _wait_again(self, rows: Sequence[Row]) -> None:
        """Rows whose context was shifted are computed again, before all others."""
        self._waiting.extendleft(reversed(rows))

    def _forget_empty(self) -> None:
        """Free what groups without rows hold."""
        prefilled = self._prefill.key if self._prefill else None
        for key, group in list(self._groups.items()):
            if not group.rows:
                group.slots = None
                if key != prefilled:
                    del self._groups[key]

    @contextlib.contextmanager
    def _weighted(self, rows: Sequence[Row], prefixes: bool = False) -> Iterator[None]:
        """Adapters have the weights of these rows within the context.

        prefixes: whether adapters put keys and values before the rows; else the slots have them.
        """
        before = {name: adapter.weight for name, adapter in self._adapters.items()}
        for name, adapter in self._adapters.items():
            off = isinstance(adapter, LanguageAdapter) and not prefixes
            weights = [0.0 if off else row.weights[name] for row in rows]
            alike = all(weight == weights[0] for weight in weights)
            adapter.weight = weights[0] if alike else torch.tensor(weights, device=self._device)
        try:
            yield
        finally:
            for name, weight in before.items():
                self._adapters[name].weight = weight


def _free(model: LanguageModel) -> int:
    """Bytes of memory that nothing uses, where the model is."""
    device = model.embedding.weight.device
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return max(0, machine_memory() - resident())
