"""A trained model in Python: `maquette.load("runs/first")`."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maquette.adaptation.adapters.adapter import Adapter, adapters_of
from maquette.base.errors import UserError, WrongUse, did_you_mean
from maquette.base.machine import measure, pick_device
from maquette.corpus.examples.cloze import ClozeCorpus
from maquette.corpus.examples.store import ExamplesCorpus
from maquette.corpus.open import AnyCorpus
from maquette.corpus.text.named import open_corpus
from maquette.corpus.text.store import TOKENIZER, Corpus, stored_kind
from maquette.corpus.tokenizer import Tokenizer, digest, load_tokenizer
from maquette.evaluation.bits_per_byte import Score, counted, score_corpus, score_documents
from maquette.evaluation.likelihood import Request, log_likelihoods
from maquette.models.base import LanguageModel
from maquette.models.store import language_config
from maquette.serving.engine import Engine
from maquette.serving.engine import Request as GenerationRequest
from maquette.serving.generate import Generated, Timing, drain, generate
from maquette.serving.pack import PackedLinear, pack
from maquette.serving.restrict import Answers, Grammars, Restriction
from maquette.serving.sampler import Sampling
from maquette.training.datasets.examples import Packed
from maquette.training.recipe import LanguageRecipe, language
from maquette.training.run import CORPUS, RunDirectory
from maquette.training.run_corpus import as_text, corpus_of
from maquette.training.trained_model import attach_run, open_model
from maquette.workshop.evaluate_tasks import evaluate_tasks


class Loaded:
    """A run's model with its tokenizer.

    model: `run.model(tokens)` gives logits (batch, time, vocabulary) for int64 (batch, time).
    tokenizer: `encode(text)`, `decode(tokens)`.
    """

    def __init__(self, path: Path, model: LanguageModel, tokenizer: Tokenizer) -> None:
        self.path, self.model, self.tokenizer = path, model, tokenizer

    def attach(self, name: str, run: str | Path, weight: float = 1.0) -> "Loaded":
        """Attach the adapter of an adapted run of the same base, under a name; returns self.

        weight: factor of what it changes, also negative where its kind allows. Raises UserError for an
        adapter of another model. To be called before `optimise`.
        """
        if any(isinstance(module, PackedLinear) for module in self.model.modules()):
            raise WrongUse(
                "the weights are laid out for generation: attach adapters before optimise"
            )
        attach_run(self.model, name, Path(run).expanduser(), self.path, weight)
        return self

    @property
    def adapters(self) -> dict[str, Adapter]:
        """The attached adapters by name; of an adapted run its own, under the name of its kind."""
        return adapters_of(self.model)

    @contextlib.contextmanager
    def weighted(self, weights: Mapping[str, float | Sequence[float]] | None) -> Iterator[None]:
        """Within the context, adapters have these weights: a number, or one for each row of a batch."""
        before = {name: self.adapters[name].weight for name in self._known(weights or {})}
        try:
            for name, weight in (weights or {}).items():
                single = isinstance(weight, int | float)
                self.adapters[name].weight = weight if single else torch.tensor(weight)  # type: ignore[assignment]
            yield
        finally:
            for name, kept in before.items():
                self.adapters[name].weight = kept

    def _known(self, names: Iterable[str]) -> list[str]:
        for name in names:
            if name not in self.adapters:
                raise WrongUse(f"no adapter is called {name}{did_you_mean(name, self.adapters)}")
        return list(names)

    @property
    def recipe(self) -> LanguageRecipe:
        """The run's recipe (imported models have none)."""
        return language(RunDirectory(self.path).recipe())

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The records of all steps."""
        return RunDirectory(self.path).records()

    def optimise(self, precision: str = "auto") -> "Loaded":
        """Lay the weights out for generation, in the precision that is fastest here; returns self.

        The model then generates and scores, but can no longer be trained or saved.
        """
        if precision == "auto":
            precision = measure().precision
        self.model.compute = torch.bfloat16 if precision == "bf16" else torch.float32
        self.model.to(self.model.compute)
        pack(self.model)
        return self

    def generate(
        self,
        prompt: str = "",
        *,
        tokens: int = 64,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int = 0,
        stop: Sequence[str] = (),
        adapters: Mapping[str, float] | None = None,
        answers: Answers | None = None,
    ) -> str:
        """Continue one prompt; returns the continuation.

        adapters: see `weighted`. answers: what the continuation is held to.
        """
        sampling = Sampling(
            temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed
        )
        results, _ = self.generate_batch(
            [prompt],
            tokens=tokens,
            sampling=sampling,
            stop=stop,
            adapters=adapters,
            answers=answers,
        )
        return results[0].text

    def generate_batch(
        self,
        prompts: Sequence[str],
        *,
        tokens: int = 64,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        on_text: Callable[[str], None] | None = None,
        adapters: Mapping[str, float | Sequence[float]] | None = None,
        answers: Answers | None = None,
    ) -> tuple[list[Generated], Timing]:
        """Continue several prompts at once; see `serving.generate.generate`.

        adapters: see `weighted`. answers: what every continuation is held to.
        """
        restriction = None
        if answers is not None:
            grammars = Grammars(self.tokenizer, self.model.config.vocabulary)
            restriction = Restriction(grammars, [answers] * len(prompts))
        with self.weighted(adapters):
            return generate(
                self.model,
                self.tokenizer,
                prompts,
                tokens=tokens,
                sampling=sampling,
                stop=stop,
                on_text=on_text,
                restriction=restriction,
            )

    def generate_drafted(
        self,
        draft: "Loaded",
        prompts: Sequence[str],
        *,
        tokens: int = 64,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        on_text: Callable[[str], None] | None = None,
        answers: Answers | None = None,
    ) -> tuple[list[Generated], Timing, float]:
        """As `generate_batch`, with the tokens of a smaller run checked by this one; also tokens per pass.

        What is drawn has the same distribution, and greedy the same tokens. Raises UserError for a draft with
        another tokenizer.
        """
        if digest(draft.tokenizer) != digest(self.tokenizer):
            raise UserError(
                f"{draft.path} has another tokenizer than {self.path}: name another draft"
            )
        engine = Engine(self.model, self.tokenizer, draft=draft.model)
        sampling = sampling or Sampling()
        requests = [
            GenerationRequest(
                prompt=tuple(self.tokenizer.encode_prompt(prompt)),
                tokens=tokens,
                sampling=sampling.row(number),
                stop=tuple(stop),
                answers=answers,
            )
            for number, prompt in enumerate(prompts)
        ]
        results, timing = drain(engine, requests, on_text)
        return results, timing, timing.tokens / max(1, engine.passes)

    def evaluate(
        self, *tasks: str, shots: Sequence[int] | None = None, limit: int | None = None
    ) -> dict[str, dict[str, Any]]:
        """Scores of tasks by name or file, as `maquette eval` has them; see `evaluate_tasks`."""
        return evaluate_tasks(
            self.model, self.tokenizer, tasks, shots, limit=limit, corpus=self.training_text()
        )

    def training_text(self) -> Corpus | None:
        """The text that the run was trained on, None where there is none, or it is no longer there."""
        run = RunDirectory(self.path)
        if not (run / CORPUS).exists():
            return None
        try:
            corpus = corpus_of(run)
        except UserError:  # moved, or changed: a score is worth having without it
            return None
        return corpus if isinstance(corpus, Corpus) else None

    def score_text(self, path: Path) -> Score:
        """Loss and bits per byte of a text file."""
        try:
            text = path.read_bytes().decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not text in UTF-8: convert it, or name another") from error
        tokens = np.array(self.tokenizer.encode(text), dtype=np.int64)
        if not len(tokens):
            raise UserError(f"{path} is empty: name a file with text")
        start = self.tokenizer.special.start
        count, size = counted(self.tokenizer, tokens, len(text.encode()), start)
        if not count:
            raise UserError(
                f"{path} is one token, which nothing goes before, for the model's files name no token "
                f"that begins or ends a text: name a file with more text"
            )
        score = Score()
        score.add(next(iter(score_documents(self.model, [tokens], start))), count, size)
        return score

    def score_heldout(
        self,
        corpus: str | None = None,
        most_bytes: int | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[str, Score]:
        """Loss and bits per byte of each component of the held-out text, and of all.

        Of a corpus of examples: of the held-out answers, see `score_examples`; of cloze texts: of the words.
        """
        run = RunDirectory(self.path)
        if not corpus and not (run / CORPUS).exists():
            raise UserError(f"{self.path} was not trained here: name text with --text or --corpus")
        opened = _opened(corpus) if corpus else corpus_of(run)
        if digest(opened.tokenizer) != digest(self.tokenizer):
            raise UserError(
                f"{opened.path} has another tokenizer than the model: score text itself with --text"
            )
        if isinstance(opened, ClozeCorpus | ExamplesCorpus):
            if most_bytes is not None:
                raise WrongUse("examples are scored whole: leave --bytes out")
            if isinstance(opened, ClozeCorpus):
                return {"all": score_cloze(self.model, opened, progress)}
            return {"all": score_examples(self.model, opened, progress)}
        start = self.tokenizer.special.start
        return score_corpus(
            self.model, as_text(opened), start=start, most_bytes=most_bytes, progress=progress
        )


def _opened(name: str) -> AnyCorpus:
    """A corpus of examples by its folder, or one of text by its folder or name."""
    return ExamplesCorpus(name) if stored_kind(name) == "examples" else open_corpus(name)


@torch.no_grad()
def score_examples(
    model: LanguageModel,
    corpus: ExamplesCorpus,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Score:
    """Loss of the answers of the held-out examples, each given its prompt alone.

    The EOS token of an answer is scored, and counts no bytes. Examples longer than the context are cut;
    those whose prompt is longer are left out.
    """
    model.eval()
    packed = Packed(corpus.heldout, model.config.context, corpus.eos_token_id, seed=0)
    device, score = model.embedding.weight.device, Score()
    for number in range(len(packed)):  # one by one: each is a part of the score's standard error
        batch = packed.batch(np.array([number]))
        loss = model.loss(batch.to(device))
        wanted = batch.targets[batch.targets >= 0].numpy()
        text = corpus.tokenizer.decode_bytes(wanted[wanted != corpus.eos_token_id])
        score.add(float(loss.value), int(loss.count), len(text))
        progress(number + 1, len(packed))
    score.documents = packed.examples
    return score


def score_cloze(
    model: LanguageModel,
    corpus: ClozeCorpus,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Score:
    """Loss of the right label's first word after each held-out context."""
    words = [corpus.words[int(np.argmax(text.probabilities))][0] for text in corpus.heldout]
    requests = [Request(t.tokens, w) for t, w in zip(corpus.heldout, words, strict=True)]
    score = Score()
    for word, found in zip(words, log_likelihoods(model, requests, progress=progress), strict=True):
        size = len(corpus.tokenizer.decode_bytes(np.array(word)))
        score.add(-found.log_likelihood, len(word), size)
    score.documents = len(words)
    return score


def load(path: str | Path, base: str | Path | None = None) -> Loaded:
    """Open a run: its final weights, or those of its newest whole checkpoint.

    base: where the base of an adapted run is now. Raises UserError when there is no model, when the model is
    damaged or not Maquette's, or when the base is missing or another.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: name a run directory")
    language_config(folder)  # refuses a model of pictures
    model = open_model(folder, None if base is None else Path(base).expanduser())
    assert isinstance(model, LanguageModel)
    model = model.to(pick_device())
    return Loaded(folder, model, load_tokenizer(folder / TOKENIZER))
