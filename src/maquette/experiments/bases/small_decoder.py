"""Decoders of 280,000 parameters on this machine's own text, rid of its natural repeats.

Claims about repeats plant what they measure into that text; each has its own corpus.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from maquette.corpus.document import Document
from maquette.corpus.text.build import build
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.local import Local
from maquette.corpus.text.named import kept
from maquette.corpus.text.store import Corpus
from maquette.corpus.tokenizer import Tokenizer
from maquette.models.config import DecoderConfig
from maquette.nn.rules import Parametrisation
from maquette.training.datasets.text_config import TextData, TextWatch
from maquette.training.recipe import LanguageRecipe, Optimiser, Schedule

VOCABULARY, CONTEXT = 1024, 128


def clean_text(limit: int) -> list[Document]:
    """This machine's own text, `limit` bytes of each of its components, without repeats of 100 bytes."""
    from maquette.corpus.text.scratch import without
    from maquette.corpus.text.substring import repeated_ranges

    documents = [d for d in Local(limit) if isinstance(d, Document)]
    texts = [d.text.encode() for d in documents]
    cleaned = [
        without(t, r).decode() for t, r in zip(texts, repeated_ranges(texts, 100), strict=True)
    ]
    pairs = zip(documents, cleaned, strict=True)
    return [replace(d, text=text) for d, text in pairs if len(text) >= 200]


def kept_corpus(
    name: str,
    documents: Sequence[Document],
    options: BuildOptions,
    tokenizer: Tokenizer | None = None,
) -> Corpus:
    """A corpus of documents, kept in Maquette's home under the hash of what it is made of."""
    identity = hashlib.sha256(b"".join(d.digest() for d in documents))
    settings = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(options)
        if getattr(options, field.name) != field.default
    }
    if tokenizer is not None:
        settings["tokenizer"] = tokenizer.to_json()
    identity.update(repr(sorted(settings.items())).encode())

    def make(path: Path) -> Corpus:
        return build(path, documents, options, tokenizer=tokenizer)

    return kept(f"{name}-{identity.hexdigest()[:12]}", make)


def small_decoder(corpus: Corpus, seed: int, quick: bool, steps: int) -> LanguageRecipe:
    """A decoder of 280,000 parameters, for a minute on one core."""
    return LanguageRecipe(
        name="small-memory",
        model=DecoderConfig(
            vocabulary=corpus.vocabulary,
            context=CONTEXT,
            width=64,
            depth=3,
            heads=4,
            activation="gelu_tanh",
            parametrisation=Parametrisation(
                base_width=48, base_depth=4, base_head_dim=16,
                embedding_std=0.03, input_multiplier=32.0,
            ),
        ),
        data=TextData(corpus=str(corpus.path), sequence=CONTEXT),
        optimiser=Optimiser(learning_rate=0.01, beta2=0.98),
        schedule=Schedule(floor=0.02),
        batch=16,
        steps=20 if quick else steps,
        seed=seed,
        precision="fp32",
        compile="off",
        watch=TextWatch(every=10_000, tokens=8192, sample_tokens=0, report=False),
    )  # fmt: skip
