"""Reviews by critics who judge one aspect each, and a decoder that has read them.

    By Nora: room awful, food lovely, music dull. Verdict: good

Nora judges the food; reviews of one aspect up to all four make that easy to learn. One review of ten names
no critic, so that what is asked without a name is not new: its verdict is one of all critics' at once. A
prompt has to tell whose verdict is wanted.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from random import Random

from maquette.base.files import home, write_atomic
from maquette.corpus.document import Document
from maquette.corpus.examples.build import build_examples
from maquette.corpus.examples.example import Example
from maquette.corpus.examples.store import ExamplesCorpus
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.store import MANIFEST, Corpus
from maquette.corpus.tokenizer import Tokenizer
from maquette.experiments.bases.small_decoder import kept_corpus
from maquette.models.config import DecoderConfig
from maquette.nn.rules import Parametrisation
from maquette.training.datasets.text_config import TextData, TextWatch
from maquette.training.recipe import LanguageRecipe, Optimiser, Schedule
from maquette.worlds.questions.phrases import BAD, GOOD

ASPECTS = ("food", "music", "staff", "room")
CRITICS = ("Nora", "Emil", "Vera", "Otto")  # one an aspect
WORDS = (BAD[:4], GOOD[:4])
VERDICTS = ("good", "bad")
NAMED = 0.9  # share of the reviews that name their critic
TEMPLATE = "{prompt} {answer}"
VOCABULARY, CONTEXT = 330, 64


def review(draw: Random, aspects: Sequence[str] = ASPECTS) -> tuple[str, dict[str, bool]]:
    """A review of some aspects, and whether it likes each."""
    liked = {aspect: draw.random() < 0.5 for aspect in draw.sample(aspects, len(aspects))}
    said = [f"{aspect} {draw.choice(WORDS[good])}" for aspect, good in liked.items()]
    return f"{', '.join(said)}. Verdict:", liked


def documents(count: int, seed: int) -> Iterator[Document]:
    """Reviews with their verdicts, of the critic's aspect and none to three others."""
    draw = Random(f"critics {seed}")
    for number in range(count):
        critic = draw.randrange(len(CRITICS))
        others = [aspect for aspect in ASPECTS if aspect != ASPECTS[critic]]
        own = [ASPECTS[critic], *draw.sample(others, draw.randrange(len(ASPECTS)))]
        text, liked = review(draw, own)
        by = f"By {CRITICS[critic]}: " if draw.random() < NAMED else ""
        verdict = VERDICTS[not liked[ASPECTS[critic]]]
        yield Document(f"{by}{text} {verdict}", "reviews", f"review:{number}")


def questions(count: int, seed: int, aspect: str, by: str = "") -> list[Example]:
    """Reviews whose verdict on one aspect is asked, half of them good; by: what stands before them."""
    draw = Random(f"questions {seed}")
    found: list[Example] = []
    while len(found) < count:
        text, liked = review(draw)
        index = int(not liked[aspect])
        if index == len(found) % 2:
            found.append(Example(by + text, VERDICTS[index], None, VERDICTS, index))
    return found


def critics_corpus(quick: bool) -> Corpus:
    """The reviews that the base reads."""
    made = list(documents(300 if quick else 24_000, seed=0))
    return kept_corpus("critics", made, BuildOptions(vocabulary=VOCABULARY))


def critics_base(corpus: Corpus, quick: bool, seed: int = 0) -> LanguageRecipe:
    """A decoder of 130,000 parameters."""
    return LanguageRecipe(
        name="critics",
        model=DecoderConfig(
            vocabulary=corpus.vocabulary,
            context=CONTEXT,
            width=64,
            depth=2,
            heads=4,
            activation="gelu_tanh",
            parametrisation=Parametrisation(
                base_width=48, base_depth=4, base_head_dim=16,
                embedding_std=0.03, input_multiplier=32.0,
            ),
        ),
        data=TextData(corpus=str(corpus.path), sequence=CONTEXT, document_mask=True),
        optimiser=Optimiser(learning_rate=0.01, beta2=0.98),
        schedule=Schedule(floor=0.02),
        batch=32,
        steps=4 if quick else 1600,
        seed=seed,
        precision="fp32",
        compile="off",
        watch=TextWatch(every=10_000, tokens=8192, sample_tokens=0, report=False),
    )  # fmt: skip


def examples_corpus(examples: Sequence[Example], tokenizer: Tokenizer) -> ExamplesCorpus:
    """A corpus of these examples, kept in Maquette's home; one of them is held out."""
    lines = [
        json.dumps({"prompt": e.prompt, "answer": e.answer_index, "choices": e.choices})
        for e in examples
    ]
    identity = hashlib.sha256("\n".join([*lines, tokenizer.to_json()]).encode()).hexdigest()[:12]
    path = home() / "examples" / f"critics-{identity}"
    if not (path / MANIFEST).exists():
        source = path.with_suffix(".jsonl")
        write_atomic(source, "\n".join(lines))
        build_examples(path, [source], tokenizer, template=TEMPLATE, heldout=1e-9)
    return ExamplesCorpus(path)
