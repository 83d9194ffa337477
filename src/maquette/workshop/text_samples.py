"""Samples of a language model: a generated text at every evaluation."""

from typing import Any

from maquette.base.files import write_atomic
from maquette.corpus.text.store import TOKENIZER
from maquette.corpus.tokenizer import Tokenizer, load_tokenizer
from maquette.models.base import LanguageModel, Model
from maquette.serving.generate import generate
from maquette.serving.sampler import Sampling
from maquette.training.observer import Observer
from maquette.training.recipe import language
from maquette.training.run import RunDirectory


class TextSamples:
    """Observer that writes a sample at every evaluation, and forwards to another observer.

    prompt: what samples continue where the recipe's `watch.prompt` is empty.
    """

    def __init__(self, run: RunDirectory, observer: Observer, prompt: str = "") -> None:
        self._run, self._next = run, observer
        self._recipe = language(run.recipe())
        self._prompt = self._recipe.watch.prompt or prompt
        self._tokenizer: Tokenizer = load_tokenizer(run / TOKENIZER)

    def start(self, step: int, steps: int) -> None:
        self._next.start(step, steps)

    def step(self, record: dict[str, Any]) -> None:
        self._next.step(record)

    def say(self, message: str) -> None:
        self._next.say(message)

    def sample(self, step: int, model: Model) -> None:
        watch = self._recipe.watch
        if watch.sample_tokens > 0 and isinstance(model, LanguageModel):
            room = model.config.context - len(self._tokenizer.encode_prompt(self._prompt))
            results, _ = generate(
                model,
                self._tokenizer,
                [self._prompt],
                tokens=max(1, min(watch.sample_tokens, room)),
                sampling=Sampling(seed=step),
            )
            text = self._prompt + results[0].text
            write_atomic(self._run / "samples" / f"step-{step:08d}.txt", text + "\n")
        self._next.sample(step, model)
