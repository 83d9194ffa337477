"""Decoders that write passages of known style (`worlds/styles.py`), and tasks about passages for them.

The tasks' questions are none of the passages that a decoder was trained on, and hold words it never read
("Topic:"), so that nothing is answered before a model is adapted.
"""

import json
from random import Random

from maquette.base.files import home, write_atomic
from maquette.corpus.document import Document
from maquette.corpus.examples.build import build_examples
from maquette.corpus.examples.store import ExamplesCorpus
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.store import MANIFEST, Corpus
from maquette.corpus.tokenizer import Tokenizer, digest
from maquette.evaluation.tasks.evaluate import evaluate_task
from maquette.evaluation.tasks.load import open_task
from maquette.experiments.bases.small_decoder import kept_corpus
from maquette.models.base import LanguageModel
from maquette.models.config import DecoderConfig
from maquette.nn.rules import Parametrisation
from maquette.training.datasets.text_config import TextData, TextWatch
from maquette.training.recipe import LanguageRecipe, Optimiser, Schedule
from maquette.worlds.questions.registry import question_world
from maquette.worlds.styles import passage, some_style

TASKS = ("style_topic", "style_mood", "style_age", "style_name")
PASSAGES, VOCABULARY, CONTEXT, DEPTH = 40_000, 512, 192, 4


def style_corpus(quick: bool) -> Corpus:
    """Passages of every style, a paragraph of three sentences each."""
    draw = Random("styles")
    texts = [passage(draw, some_style(draw)) + "\n" for _ in range(800 if quick else PASSAGES)]
    documents = [Document(text, "styles", f"styles/{i}") for i, text in enumerate(texts)]
    return kept_corpus("styles", documents, BuildOptions(vocabulary=VOCABULARY))


def style_decoder(corpus: Corpus, width: int, seed: int, quick: bool) -> LanguageRecipe:
    """A decoder of four blocks of that width, trained until it tells the styles apart."""
    return LanguageRecipe(
        name=f"styles-{width}",
        model=DecoderConfig(
            vocabulary=corpus.vocabulary, context=CONTEXT, width=width, depth=DEPTH, heads=width // 16,
            activation="gelu_tanh",
            parametrisation=Parametrisation(
                base_width=96, base_depth=DEPTH, base_head_dim=16,
                embedding_std=0.03, input_multiplier=32.0,
            ),
        ),
        data=TextData(corpus=str(corpus.path), sequence=96),
        optimiser=Optimiser(learning_rate=0.008, beta2=0.98),
        schedule=Schedule(floor=0.05),
        batch=4 if quick else 32,
        steps=6 if quick else 2400,
        seed=seed,
        watch=TextWatch(every=10_000, tokens=8192, sample_tokens=0, report=False),
    )  # fmt: skip


def style_examples(task: str, count: int, tokenizer: Tokenizer) -> ExamplesCorpus:
    """The first `count` training questions of a task as a corpus of examples."""
    path = home() / "examples" / f"{task}-{count}-{digest(tokenizer)[:12]}"
    if (path / MANIFEST).exists():
        return ExamplesCorpus(path)
    questions = question_world(task).questions(count, side="train")
    lines = [json.dumps({"prompt": q.question, "answer": " " + q.answer}) for q in questions]
    source = path.with_suffix(".jsonl")
    write_atomic(source, "\n".join(lines))
    return build_examples(path, [source], tokenizer, heldout=0.02)


def task_accuracy(model: LanguageModel, tokenizer: Tokenizer, task: str, limit: int) -> float:
    """Share of held-out questions whose right choice is the likeliest."""
    values = evaluate_task(model, tokenizer, open_task(task), 0, limit=limit).metrics[0]
    return float(values.values.mean())
