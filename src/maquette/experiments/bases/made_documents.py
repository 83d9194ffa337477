"""Decoders of some 130,000 parameters on documents made on the spot, for a minute or two on one core.

Claims about what a decoder does in its context make the documents that they need; each has its own corpus.
"""

from collections.abc import Iterable, Sequence

from maquette.corpus.document import Document
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.store import Corpus
from maquette.evaluation.likelihood import Request, log_likelihoods
from maquette.experiments.bases.small_decoder import kept_corpus
from maquette.models.config import DecoderConfig
from maquette.nn.rules import Parametrisation
from maquette.training.datasets.text_config import TextData, TextWatch
from maquette.training.recipe import LanguageRecipe, Optimiser, Schedule
from maquette.workshop.load import Loaded

WIDTH, DEPTH, HEAD = 64, 2, 16
BATCH, SEQUENCE = 16, 112
RATE = 0.01
TOY_STEPS = 5


def made_corpus(name: str, texts: Iterable[str], options: BuildOptions) -> Corpus:
    """A corpus of texts, kept in Maquette's home under the hash of what it is made of."""
    return kept_corpus(name, [Document(text, name, "made") for text in texts], options)


def made_decoder(
    name: str,
    corpus: Corpus,
    seed: int,
    steps: int,
    quick: bool = False,
    size: tuple[int, int] = (WIDTH, DEPTH),
) -> LanguageRecipe:
    """A decoder on sequences of 112 tokens, 1,792 tokens a step; quick: five of them.

    size: width, a multiple of 16, and number of blocks.
    """
    width, depth = size
    return LanguageRecipe(
        name=name,
        model=DecoderConfig(
            vocabulary=corpus.vocabulary,
            context=SEQUENCE,
            width=width,
            depth=depth,
            heads=width // HEAD,
            activation="gelu_tanh",
            parametrisation=Parametrisation(
                base_width=WIDTH, base_depth=DEPTH, base_head_dim=HEAD,
                embedding_std=0.03, input_multiplier=32.0,
            ),
        ),
        data=TextData(corpus=str(corpus.path), sequence=SEQUENCE),
        optimiser=Optimiser(learning_rate=RATE, beta2=0.98),
        schedule=Schedule(floor=0.02),
        batch=BATCH,
        steps=TOY_STEPS if quick else steps,
        seed=seed,
        precision="fp32",
        compile="off" if quick else "kernels",
        watch=TextWatch(every=max(1, steps // 10), tokens=8192, sample_tokens=0, report=False),
    )  # fmt: skip


def asked(run: Loaded, context: str, answers: Sequence[str]) -> list[Request]:
    """The requests of answers after a context that begins a document."""
    before = (*run.tokenizer.special.start, *run.tokenizer.encode(context))
    return [Request(before, tuple(run.tokenizer.encode(answer))) for answer in answers]


def right_choices(run: Loaded, questions: Sequence[tuple[str, Sequence[str]]]) -> list[bool]:
    """Whether the first of the answers is the likeliest, of every (context, answers)."""
    requests = [request for question in questions for request in asked(run, *question)]
    scores = iter(log_likelihoods(run.model, requests))
    right = []
    for _, answers in questions:
        own = [next(scores).log_likelihood for _ in answers]
        right.append(own[0] > max(own[1:]))
    return right


def exact_matches(run: Loaded, questions: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether the answer is what greedy decoding writes, of every (context, answer)."""
    requests = [asked(run, context, [answer])[0] for context, answer in questions]
    return [one.greedy for one in log_likelihoods(run.model, requests)]
