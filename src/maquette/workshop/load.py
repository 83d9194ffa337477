"""A trained model in Python: `maquette.load("runs/first")`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maquette.base.errors import UserError, WrongUse
from maquette.base.machine import measure, pick_device
from maquette.corpus.examples.store import ExamplesCorpus
from maquette.corpus.open import AnyCorpus
from maquette.corpus.text.named import open_corpus
from maquette.corpus.text.store import TOKENIZER, stored_kind
from maquette.corpus.tokenizer import Tokenizer, digest, load_tokenizer
from maquette.evaluation.bits_per_byte import Score, counted, score_corpus, score_documents
from maquette.models.base import LanguageModel
from maquette.models.store import load_language
from maquette.serving.generate import Generated, Timing, generate
from maquette.serving.pack import pack
from maquette.serving.sampler import Sampling
from maquette.training.datasets.examples import Packed
from maquette.training.initial_model import weights_file
from maquette.training.recipe import LanguageRecipe, language
from maquette.training.run import CORPUS, RunDirectory
from maquette.training.run_corpus import as_text, corpus_of

SCORED = 16  # sequences of examples that are scored at a time


class Loaded:
    """A run's model with its tokenizer.

    model: `run.model(tokens)` gives logits (batch, time, vocabulary) for int64 (batch, time).
    tokenizer: `encode(text)`, `decode(tokens)`.
    """

    def __init__(self, path: Path, model: LanguageModel, tokenizer: Tokenizer) -> None:
        self.path, self.model, self.tokenizer = path, model, tokenizer

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
    ) -> str:
        """Continue one prompt; returns the continuation."""
        sampling = Sampling(
            temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed
        )
        results, _ = self.generate_batch([prompt], tokens=tokens, sampling=sampling, stop=stop)
        return results[0].text

    def generate_batch(
        self,
        prompts: Sequence[str],
        *,
        tokens: int = 64,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        on_text: Callable[[str], None] | None = None,
    ) -> tuple[list[Generated], Timing]:
        """Continue several prompts at once; see `serving.generate.generate`."""
        return generate(
            self.model,
            self.tokenizer,
            prompts,
            tokens=tokens,
            sampling=sampling,
            stop=stop,
            on_text=on_text,
        )

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

        Of a corpus of examples: of the held-out answers, see `score_examples`.
        """
        run = RunDirectory(self.path)
        if not corpus and not (run / CORPUS).exists():
            raise UserError(f"{self.path} was not trained here: name text with --text or --corpus")
        opened = _opened(corpus) if corpus else corpus_of(run)
        if digest(opened.tokenizer) != digest(self.tokenizer):
            raise UserError(
                f"{opened.path} has another tokenizer than the model: score text itself with --text"
            )
        if isinstance(opened, ExamplesCorpus):
            if most_bytes is not None:
                raise WrongUse("examples are scored whole: leave --bytes out")
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
    for first in range(0, len(packed), SCORED):
        batch = packed.batch(np.arange(first, min(first + SCORED, len(packed))))
        loss = model.loss(batch.to(device))
        wanted = batch.targets[batch.targets >= 0].numpy()
        text = corpus.tokenizer.decode_bytes(wanted[wanted != corpus.eos_token_id])
        score.add(float(loss.value), int(loss.count), len(text))
        progress(first + len(batch), len(packed))
    score.documents = packed.examples
    return score


def load(path: str | Path) -> Loaded:
    """Open a run: its final weights, or those of its newest whole checkpoint.

    Raises UserError when there is no model, or when the model is damaged or not Maquette's.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: name a run directory")
    weights = weights_file(folder)
    model = load_language(folder, weights).to(pick_device())
    return Loaded(folder, model, load_tokenizer(folder / TOKENIZER))
