"""A model that writes instructions and their instances: the writing of self-instruct.

What a round or a batch writes is a function of (seed, what was written before it), so that a job that stops
between two of them goes on to the same.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from maquette.adaptation.rouge_l import RougePool
from maquette.adaptation.self_instruct import (
    Instruction,
    SelfInstructOptions,
    chosen,
    fault,
    instances,
    items,
    listed,
    shaped,
    sound,
    worked,
)
from maquette.base.errors import UserError, WrongUse
from maquette.serving.generate import Generated
from maquette.serving.sampler import Sampling
from maquette.workshop.load import Loaded

AT_ONCE = 16  # instructions whose instances are written in one batch
WORKED_SHOWN = 4  # instructions before the one whose instances are asked for
SHAPED_SHOWN = 4  # instructions with labels, and without, before the one that is asked about
ANSWER = 4  # tokens of Yes or No


@dataclass
class Written:
    """What was written so far: the seeds, then every instruction that was proposed."""

    instructions: list[Instruction]
    rounds: int = 0
    """number of rounds that are done"""

    @property
    def seeds(self) -> list[Instruction]:
        return [one for one in self.instructions if not one.origin.startswith("round ")]

    @property
    def own(self) -> list[Instruction]:
        """The instructions that the model wrote and that were kept."""
        return [one for one in self.instructions if one.origin.startswith("round ") and one.kept]

    @property
    def dropped(self) -> dict[str, int]:
        """Number of instructions that were dropped, by the reason."""
        return dict(Counter(one.dropped for one in self.instructions if one.dropped).most_common())


class Writer:
    """A model that writes instructions and instances. room: tokens that are written after a prompt."""

    def __init__(self, loaded: Loaded, room: int, options: SelfInstructOptions) -> None:
        self._loaded, self._room, self._options = loaded, room, options
        self._most = loaded.model.config.context - room
        if self._most < 1:
            raise WrongUse(f"tokens is {room}, all of the model's context: use fewer")

    def rounds(self, written: Written) -> Iterator[int]:
        """Write instructions, round by round, until there are enough; yields after each."""
        options = self._options
        pool = RougePool([one.text for one in written.instructions if one.kept])
        kept = [one.text for one in written.instructions if one.kept]
        while len(written.own) < options.count and written.rounds < options.rounds:
            number = written.rounds + 1
            prompts = [
                self._prompt(written, self._draw(f"{number} {i}")) for i in range(options.prompts)
            ]
            stop = [f"\n{options.shown + options.items + 1}.", "\n\n"]
            for text in self._write(
                prompts, self._room, stop, options.temperature, f"round {number}"
            ):
                for item in items(text.text, text.finish == "length", options.items):
                    if len(written.own) < options.count:
                        written.instructions.append(self._judged(item, number, pool, kept))
            written.rounds = number
            yield number

    def instances(self, written: Written) -> Iterator[int]:
        """Write the instances of every instruction that has none yet; yields after each batch."""
        todo = [one for one in written.own if one.labels is None]
        done = len(written.own) - len(todo)
        for first in range(0, len(todo), AT_ONCE):
            batch = todo[first : first + AT_ONCE]
            name = f"instances {done}"
            labels = self._shapes(batch, written.seeds, name)
            found: list[list[tuple[str, str]]] = [[] for _ in batch]
            for sample in range(self._options.samples):
                prompts = [
                    self._worked(one, written.seeds, label, self._draw(f"{one.text} {sample}"))
                    for one, label in zip(batch, labels, strict=True)
                ]
                temperature = self._options.instance_temperature
                texts = self._write(prompts, self._room, ["\n\n"], temperature, f"{name} {sample}")
                for rows, text, label in zip(found, texts, labels, strict=True):
                    rows += instances(text.text, label, text.finish == "length")
            for one, rows, label in zip(batch, found, labels, strict=True):
                one.labels = label
                one.instances, one.left_out = sound(rows, label)
            done += len(batch)
            yield done

    def _judged(self, text: str, number: int, pool: RougePool, kept: list[str]) -> Instruction:
        """An instruction that was proposed, with why it is dropped; one that is kept joins the pool."""
        scores = pool.scores(text)
        nearest = int(scores.argmax())
        one = Instruction(text, f"round {number}", kept[nearest], float(scores[nearest]))
        one.dropped = fault(text, self._options)
        if not one.dropped and one.rouge_l > self._options.rouge_l:
            one.dropped = f"ROUGE-L above {self._options.rouge_l:g}"
        if one.kept:
            pool.add(text)
            kept.append(text)
        return one

    def _prompt(self, written: Written, draw: Random) -> str:
        shown = chosen(written.seeds, written.own, self._options, draw)
        text = self._fitted(listed, shown)
        if text is None:
            raise UserError(
                f"the model's context leaves {self._most} tokens for a prompt, and one instruction takes "
                "more: use a model of a longer context, or fewer --tokens"
            )
        return text

    def _shapes(
        self, batch: Sequence[Instruction], seeds: Sequence[Instruction], name: str
    ) -> list[bool]:
        """Whether each instruction's answer is one of a few labels, as the model says."""
        pools = [[seed for seed in seeds if bool(seed.labels) == kind] for kind in (True, False)]
        if not all(pools):
            return [bool(pools[0])] * len(batch)
        prompts = []
        for one in batch:
            draw = self._draw(f"{one.text} labels")
            both = [seed for pool in pools for seed in _sample(draw, pool, SHAPED_SHOWN)]
            draw.shuffle(both)
            prompts.append(self._fitted(partial(_shaped, one.text), both))
        texts = self._write(prompts, ANSWER, ["\n"], 0.0, f"{name} labels")
        return [text.text.strip().lower().startswith("yes") for text in texts]

    def _worked(
        self, one: Instruction, seeds: Sequence[Instruction], labels: bool, draw: Random
    ) -> str | None:
        alike = [seed for seed in seeds if bool(seed.labels) == labels and seed.instances]
        shown = _sample(draw, alike, WORKED_SHOWN)
        return self._fitted(partial(_worked, one.text, labels), shown)

    def _draw(self, name: str) -> Random:
        return Random(f"{self._options.seed} {name}")

    def _fitted(
        self, make: Callable[[Sequence[Instruction]], str], shown: Sequence[Instruction]
    ) -> str | None:
        """A prompt with as many instructions as fit the context; None where it does not with one."""
        for count in range(len(shown), 0, -1):
            text = make(shown[:count])
            if len(self._loaded.tokenizer.encode_prompt(text)) <= self._most:
                return text
        return None

    def _write(
        self,
        prompts: Sequence[str | None],
        tokens: int,
        stop: Sequence[str],
        temperature: float,
        name: str,
    ) -> list[Generated]:
        """What follows each prompt, sampled by (seed, name); nothing where there is no prompt."""
        there = [prompt for prompt in prompts if prompt is not None]
        sampling = Sampling(
            temperature=temperature,
            top_p=self._options.top_p if temperature else None,
            seed=self._draw(name).getrandbits(32),
        )
        texts = iter(
            self._loaded.generate_batch(there, tokens=tokens, sampling=sampling, stop=stop)[0]
            if there
            else []
        )
        return [Generated("", [], "stop") if p is None else next(texts) for p in prompts]


def _shaped(instruction: str, seeds: Sequence[Instruction]) -> str:
    return shaped(seeds, instruction)


def _worked(instruction: str, labels: bool, seeds: Sequence[Instruction]) -> str:
    return worked(seeds, instruction, labels)


def _sample(draw: Random, some: Sequence[Instruction], count: int) -> list[Instruction]:
    return draw.sample(list(some), min(count, len(some)))
