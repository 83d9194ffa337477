"""LLaMA on a phone: weights in 8 and 4 bits, in the blocks of llama.cpp, lose little.

    maquette reproduce llama_on_a_phone     about 5 minutes on 2 cores, 2 seeds
    maquette plan --serve llama-7b --device pixel-6

llama.cpp (Gerganov 2023) runs LLaMA on a phone because its weights take 4.5 bits: blocks of 32 weights with
a scale of their own (Q4_0), or of 256 with sixteen smaller numbers (Q4_K). 7 billion parameters become 3.9 GB
in place of 13, and the perplexity grows by 0.03 % in 8 bits and by 4 % in 4. Scaled down: a LLaMA of 1.7
million parameters (two blocks of 256, so that its rows fill blocks of 256) on bytes of this machine's text,
written as a GGUF file of each type, read back, and scored on held-out text. Controls: 4 bits with one scale
for each matrix, and the sign alone, one bit with a scale for every 32 weights.

Speed is not measured here: `plan --serve` forecasts it from bandwidth, and a test holds the forecast against
published speeds.

Expected: 8.5, 6.5625 and 4.5 bits a weight exactly; 8 bits lose less than 0.1 % in bits per byte, 4 bits less
than 5 %, Q4_K less than Q4_0, one scale for each matrix more. Tried with another seed and a third of the
steps: 0.001 % in Q8_0, 0.02 % in Q4_K, 0.14 % in Q4_0, 0.9 % with one scale for each matrix, 28 % in signs.
"""

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import torch

from maquette.corpus.text.named import open_corpus
from maquette.corpus.text.store import Corpus
from maquette.evaluation.bits_per_byte import score_corpus
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.lab import Lab
from maquette.models import families
from maquette.models.base import LanguageModel
from maquette.models.store import load_model
from maquette.nn.rules import Parametrisation
from maquette.serving.gguf import import_gguf
from maquette.serving.gguf_format import GGUFReader
from maquette.training.datasets.text_config import TextData, TextWatch
from maquette.training.recipe import LanguageRecipe, Optimiser, Schedule
from maquette.workshop import charts
from maquette.workshop.export_gguf import export_run

BITS = {"Q8_0": 8.5, "Q6_K": 6.5625, "Q4_K": 4.5, "Q4_0": 4.5}
"""bits a weight of a type, as ggml's layouts give them"""
ONE_SCALE = "4 bits, one scale a matrix"
SIGN = "1 bit, a scale for 32 weights"
HELD_OUT = 40_000  # bytes of text that are scored
Growths = dict[str, list[float]]
"""growth of the bits per byte in percent of each seed, by type"""


def llama(seed: int, quick: bool) -> LanguageRecipe:
    """A LLaMA whose rows fill blocks of 256."""
    rules = Parametrisation(
        base_width=256, base_depth=2, base_head_dim=64, embedding_std=0.03, input_multiplier=32.0
    )
    sizes = {"vocabulary": 257, "context": 128, "width": 256, "depth": 2, "heads": 4}
    return LanguageRecipe(
        name="llama-on-a-phone",
        model=families.llama(**sizes, hidden=768, kv_heads=2, parametrisation=rules),
        data=TextData(corpus="tiny" if quick else "bytes", sequence=128),
        optimiser=Optimiser(learning_rate=0.004, beta2=0.98),
        schedule=Schedule(warmup=0.05, floor=0.02),
        batch=16,
        steps=10 if quick else 250,
        seed=seed,
        precision="fp32",
        compile="off",
        watch=TextWatch(every=10_000, tokens=8192, sample_tokens=0, report=False),
    )


@claim(
    statement="weights take 8.5, 6.5625 and 4.5 bits, scales included",
    source="llama.cpp, ggml-common.h",
    metric="largest difference between the bits a weight of a type's matrices and its layout's",
    at_most=0,
    control="of the whole file, norms, tokens and names included",
    evidence="exact count",
    minutes=3,
)
def bits_per_weight(lab: Lab) -> Measurement:
    """Count bytes and weights in a file of each type."""
    run = lab.train(llama(1, lab.quick))
    matrices, whole = {}, {}
    for kind, file in files(run):
        with GGUFReader(file) as read:
            rows = [i for i in read.tensors.values() if i.type == kind]
            weights = sum(int(np.prod(i.shape)) for i in rows)
            everything = sum(int(np.prod(i.shape)) for i in read.tensors.values())
        matrices[kind] = 8 * sum(i.size for i in rows) / weights
        whole[kind] = 8 * file.stat().st_size / everything
    return Measurement(
        value=max(abs(matrices[kind] - bits) for kind, bits in BITS.items()),
        control=min(abs(whole[kind] - bits) for kind, bits in BITS.items()),
        details={"matrices": matrices, "file": whole},
        chart=bits_chart(matrices, whole),
        seeds=1,
    )


@claim(
    statement="8 bits a weight lose next to nothing",
    source="llama.cpp's README, perplexity of LLaMA 7B in Q8_0",
    metric="growth of the bits per byte of held-out text in Q8_0, percent",
    at_most=0.1,
    control="Q4_0",
    minutes=5,
)
def eight_bits(lab: Lab) -> Measurement:
    """Score a model, and the same in 8 and in 4 bits."""
    return measured(growths(lab), "Q8_0", "Q4_0")


@claim(
    statement="4 bits a weight lose little, where every 32 weights have their scale",
    source="llama.cpp's README, perplexity of LLaMA 7B in Q4_0",
    metric="growth of the bits per byte of held-out text in Q4_0, percent",
    at_most=5,
    control="the sign alone, with a scale for every 32 weights",
    minutes=5,
)
def four_bits(lab: Lab) -> Measurement:
    """Score a model, and the same in 4 bits and in one."""
    return measured(growths(lab), "Q4_0", SIGN)


@claim(
    statement="at 4.5 bits, blocks of 256 with smaller scales and minima lose less than blocks of 32",
    source="llama.cpp, pull request 1684 (k-quants)",
    metric="growth of the bits per byte in Q4_K, over that in Q4_0",
    at_most=0.95,
    control="that of 4 bits with one scale for each matrix",
    minutes=5,
)
def k_blocks(lab: Lab) -> Measurement:
    """Score a model in both kinds of blocks."""
    found = growths(lab)
    k, plain, one = (np.array(found[kind]) for kind in ("Q4_K", "Q4_0", ONE_SCALE))
    ratios = k / plain
    return Measurement(
        value=float(ratios.mean()),
        control=float((one / plain).mean()),
        interval=(float(ratios.min()), float(ratios.max())),
        details=dict(found),
        chart=chart(found),
    )


def measured(found: Growths, kind: str, control: str) -> Measurement:
    """The mean growth of a type over the seeds, beside the control's."""
    values = found[kind]
    return Measurement(
        value=float(np.mean(values)),
        control=float(np.mean(found[control])),
        interval=(min(values), max(values)),
        details=dict(found),
        chart=chart(found),
    )


@functools.cache  # three claims ask for all
def growths(lab: Lab) -> Growths:
    """Write each seed's model in every type, read it back and score it."""
    found: Growths = {kind: [] for kind in (*BITS, ONE_SCALE, SIGN)}
    runs = lab.train_all([llama(seed, lab.quick) for seed in range(1, lab.seeds + 1)])
    for run in runs:
        corpus = open_corpus("tiny" if lab.quick else "bytes")
        model = load_model(run)
        assert isinstance(model, LanguageModel)
        plain = bits_per_byte(model, corpus, lab.quick)
        for kind, file in files(run):
            import_gguf(file, file.parent / "back")
            read = load_model(file.parent / "back")
            assert isinstance(read, LanguageModel)
            found[kind].append(100 * (bits_per_byte(read, corpus, lab.quick) / plain - 1))
        for name, rounded in ((ONE_SCALE, one_scale), (SIGN, signs)):
            model = load_model(run)
            assert isinstance(model, LanguageModel)
            rounded(model)
            found[name].append(100 * (bits_per_byte(model, corpus, lab.quick) / plain - 1))
    return found


def files(run: Path) -> Iterator[tuple[str, Path]]:
    """A run as a file of each type, which is gone when the next is asked for."""
    for kind in BITS:
        with tempfile.TemporaryDirectory() as folder:
            export_run(run, Path(folder) / "model.gguf", kind, [], lambda line: None)
            yield kind, Path(folder) / "model.gguf"


@torch.no_grad()
def one_scale(model: LanguageModel) -> None:
    """Round every matrix to 4 bits with one scale, as Q4_0 does with a block's."""
    for matrix in matrices_of(model):
        scale = matrix.flatten()[matrix.abs().argmax()] / -8
        matrix.copy_(scale * (matrix / scale).round().clamp(-8, 7))


@torch.no_grad()
def signs(model: LanguageModel) -> None:
    """Keep of every weight its sign, and of 32 weights their mean size."""
    for matrix in matrices_of(model):
        blocks = matrix.view(-1, 32)
        blocks.copy_(blocks.sign() * blocks.abs().mean(1, keepdim=True))


def matrices_of(model: LanguageModel) -> list[torch.Tensor]:
    """The matrices of a model."""
    return [parameter for parameter in model.parameters() if parameter.dim() == 2]


def bits_per_byte(model: LanguageModel, corpus: Corpus, quick: bool) -> float:
    """Of held-out text, always the same."""
    scores = score_corpus(model, corpus, most_bytes=2_000 if quick else HELD_OUT)
    return scores["all"].bits_per_byte


def bits_chart(matrices: dict[str, float], whole: dict[str, float]) -> Any:
    """Bars of the bits a weight, of matrices and of files."""
    rows = [
        {"type": kind, "of": name, "bits": bits}
        for name, counted in (("matrices", matrices), ("file", whole))
        for kind, bits in counted.items()
    ]
    x = alt.X("type:N", title=None, sort=list(BITS), axis=alt.Axis(labelAngle=0))
    offset = alt.XOffset("of:N", sort=["matrices", "file"])
    color = alt.Color("of:N", title="of the", sort=["matrices", "file"])
    bars = alt.Chart(alt.Data(values=rows)).mark_bar()
    return bars.encode(x, alt.Y("bits:Q", title="bits a weight"), color, offset).properties(
        width=charts.WIDTH, height=charts.HEIGHT, title="Bits a weight, scales included"
    )


def chart(found: Growths) -> Any:
    """Growth by type, with a point for each seed."""
    rows = [
        {"type": kind, "growth": max(growth, 1e-4)}
        for kind, seeds in found.items()
        for growth in seeds
    ]
    order = list(found)
    base = alt.Chart(alt.Data(values=rows))
    x = alt.X("type:N", title=None, sort=order, axis=alt.Axis(labelAngle=-20))
    y = alt.Y("growth:Q", title="more bits per byte (%)", scale=alt.Scale(type="log"))
    return (
        base.mark_point(filled=True, size=80, color=charts.INK)
        .encode(x, y)
        .properties(
            width=charts.WIDTH,
            height=charts.HEIGHT,
            title="Fewer bits a weight, in blocks and without",
        )
    )
