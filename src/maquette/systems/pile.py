"""The Pile: a language model reads a mixture of sources (Gao et al. 2020).

    maquette reproduce pile               about 8 minutes on 2 cores, 3 seeds

The paper puts 22 sources together, 825 GiB, and trains models of 1.3 billion parameters on them, on
Common Crawl as CC-100 filtered it and on raw Common Crawl. In bits per byte the one that read the
mixture is better on every component (section 4). Scaled down: the four components of this machine's
own text (standard library, its tests, prose, manual pages), 4 MB each; decoders of 209,000 parameters,
a million tokens each; one byte-pair tokenizer of 1,024 tokens, learned on the mixture, for all of
them. In place of Common Crawl stands each single component, which is at home on itself: so what is
claimed is the plain average over components, of documents that no arm has read. No arm reads a text
twice, so what is compared is what was read, not how often.

Expected: the mixture's average is 0.85 to 0.86 of the best single component's (2.16 bits per byte, and
2.53 for prose, the best single one); on itself, each single component is better than the mixture, by
0.1 to 0.4.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import altair as alt
import numpy as np
import numpy.typing as npt

from maquette.corpus.document import Document
from maquette.corpus.text.build import build
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.local import Local
from maquette.corpus.text.named import kept
from maquette.corpus.text.store import Corpus
from maquette.corpus.tokenizer import Tokenizer
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.lab import Lab
from maquette.models.config import DecoderConfig
from maquette.nn.rules import Parametrisation
from maquette.training.datasets.text_config import TextData, TextWatch
from maquette.training.recipe import LanguageRecipe, Optimiser, Schedule
from maquette.workshop import charts
from maquette.workshop.load import load

SIZES = (4 << 20, 0.1, 1024)  # bytes of a component, held-out fraction, vocabulary
TOKENS = 1_000_000
SCORED_BYTES = 300_000
MIXTURE = "mixture"
Array = npt.NDArray[np.float64]


@claim(
    statement="a mixture beats its single components on the average bits per byte of all components",
    source="Gao et al. 2020, section 4",
    metric="highest over the seeds of the mixture's average bits per byte over the best single one's",
    at_most=1.0,
    control="the best single component over itself with another seed: the highest of ratios whose "
    "product is 1, below 1 never and exactly 1 only where seeds make no difference",
    minutes=8,
)
def mixture(lab: Lab) -> Measurement:
    """Train on the mixture and on each component, equal tokens; score all on all components."""
    seeds = lab.seeds if lab.quick else max(3, lab.seeds)
    whole, parts = corpora(lab.quick)
    arms = {MIXTURE: whole, **parts}
    recipes = [arm(corpus, seed, lab.quick) for seed in range(seeds) for corpus in arms.values()]
    runs = lab.train_all(recipes)
    lab.say("  scoring")
    scores = np.array([bits(run, whole, list(parts), lab.quick) for run in runs])
    scores = scores.reshape(seeds, len(arms), len(parts))  # (seeds, trained on, scored on)
    averages = scores.mean(2)  # (seeds, trained on)
    single = averages[:, 1:]
    ratios = averages[:, 0] / single.min(1)
    best = single[:, int(single.mean(0).argmin())]
    saved = single.min(1) - averages[:, 0]
    return Measurement(
        seeds=seeds,
        value=float(ratios.max()),
        control=float((np.roll(best, -1) / best).max()),
        interval=(float(ratios.min()), float(ratios.max())),
        details={
            "trained_on": list(arms),
            "scored_on": list(parts),
            "bits_per_byte": scores.mean(0).tolist(),
            "averages": averages.tolist(),
            "best_single": list(parts)[int(single.mean(0).argmin())],
            "bits_per_byte_saved": saved.tolist(),
            "tokens": recipes[0].steps * recipes[0].units_per_step,
            "corpora": {name: corpus.hash for name, corpus in arms.items()},
        },
        chart=chart(list(arms), list(parts), scores.mean(0)),
    )


@dataclass(frozen=True)
class Part:
    """The local text as a source: one component, or all."""

    limit: int
    component: str | None

    def __iter__(self) -> Iterator[Document]:
        for item in Local(self.limit):
            if isinstance(item, Document) and self.component in (None, item.component):
                yield item


def corpora(quick: bool) -> tuple[Corpus, dict[str, Corpus]]:
    """The mixture, and each component with the mixture's tokenizer.

    A document is held out by the hash of its text, so those held out of the mixture are held out of
    its component, too.
    """
    limit, heldout, vocabulary = (1 << 17, 0.1, 300) if quick else SIZES
    # So little text has too few documents to hold whole ones out.
    split: Literal["hash", "tail"] = "tail" if quick else "hash"
    options = BuildOptions(vocabulary=vocabulary, heldout=heldout, split=split)

    def made(name: str, component: str | None, tokenizer: Tokenizer | None = None) -> Corpus:
        source = Part(limit, component)
        return kept(name, lambda path: build(path, source, options, tokenizer=tokenizer))

    whole = made(f"pile-{limit}-{heldout}-{vocabulary}", None)
    names = whole.components[:2] if quick else whole.components
    stem = f"pile-{whole.hash[:16]}"
    parts = {name: made(f"{stem}-{name}", name, whole.tokenizer) for name in names}
    return whole, parts


def arm(corpus: Corpus, seed: int, quick: bool) -> LanguageRecipe:
    """A decoder of four blocks of width 48 on that corpus."""
    tokens = 20_000 if quick else TOKENS
    return LanguageRecipe(
        name="pile",
        model=DecoderConfig(
            vocabulary=corpus.vocabulary,
            context=128,
            width=48,
            depth=4,
            heads=3,
            activation="gelu_tanh",
            parametrisation=Parametrisation(
                base_width=48, base_depth=4, base_head_dim=16,
                embedding_std=0.03, input_multiplier=32.0,
            ),
        ),
        data=TextData(corpus=str(corpus.path), sequence=128),
        optimiser=Optimiser(learning_rate=0.01, beta2=0.98),
        schedule=Schedule(floor=0.02),
        batch=16,
        steps=tokens // (16 * 128),
        seed=seed,
        precision="fp32",
        compile="off",
        watch=TextWatch(every=10_000, tokens=16_384, sample_tokens=0, report=False),  # scored afterwards
    )  # fmt: skip


def bits(run: Path, whole: Corpus, components: list[str], quick: bool) -> list[float]:
    """Bits per byte of the held-out documents of each component."""
    scores = load(run).score_heldout(str(whole.path), 20_000 if quick else SCORED_BYTES)
    return [scores[name].bits_per_byte for name in components]


def chart(arms: list[str], components: list[str], bits_per_byte: Array) -> Any:
    """What each model was trained on, against what it is scored on, and the average."""
    table = np.column_stack([bits_per_byte, bits_per_byte.mean(1)])
    columns = [*components, "average"]
    cells = [
        {"trained on": name, "scored on": column, "bits": float(value)}
        for name, row in zip(arms, table, strict=True)
        for column, value in zip(columns, row, strict=True)
    ]
    base = alt.Chart(alt.Data(values=cells)).encode(
        alt.X("scored on:N", sort=columns, axis=alt.Axis(orient="top", labelAngle=0)),
        alt.Y("trained on:N", sort=arms),
    )
    colour = alt.Color("bits:Q", title="bits per byte",
                       scale=alt.Scale(range=["#ffffff", "#e08a6b"], zero=False))  # fmt: skip
    return alt.layer(
        base.mark_rect().encode(colour),
        base.mark_text(fontSize=14, color=charts.INK).encode(alt.Text("bits:Q", format=".3f")),
    ).properties(
        width=charts.WIDTH,
        height=52 * len(arms),
        title="Bits per byte of held-out text, by what the model was trained on",
    )
