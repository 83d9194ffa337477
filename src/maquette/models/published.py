"""The architectures of the scaling era, each a setting of the one decoder with its published size.

    from maquette.models.published import published
    published("gpt3-175b").config.parameters()        # 174,604,259,328

A published figure is either exact (unit 1: the weights were released and counted) or rounded to
its unit; ours must meet it after rounding. Where the published model has parameters that ours has
not, or counts copies, `differences` names them one by one and the sum must meet the figure. A test
builds every one of them on the meta device and holds the three against each other.

How each was trained stands beside it: tokens, batch, rate and schedule of the paper, as far as
`training.recipe` can say them, and in words where it cannot. Batches that a paper gives as
"0.5M tokens" are 256 sequences of 2,048, and so on by powers of two.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from maquette.base.errors import WrongUse, did_you_mean
from maquette.models import families
from maquette.models.config import DecoderConfig
from maquette.nn.rules import Role

MILLION, BILLION = 10**6, 10**9
OPENAI, PADDED = 50_257, 51_200  # GPT-2's vocabulary, and Megatron's padding of it to 128 x 8


@dataclass(frozen=True, kw_only=True)
class Training:
    """The training of a published model, from which a recipe is made (AdamW, cosine).

    tokens: seen in training. batch: sequences a step, at the end where it grew. learning_rate: the
    peak, in standard parametrisation. warmup_tokens: over which it rises. floor: the last rate over
    the peak. The others are the optimiser's of `training.recipe`; momentum is 0.9 in all of them.
    otherwise: what the published run did that a recipe cannot say.
    """

    tokens: int
    batch: int
    learning_rate: float
    warmup_tokens: int
    floor: float = 0.1
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0
    z_loss: float = 0.0
    otherwise: str = ""


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published architecture.

    name: what the command line calls it, title: what the paper does. config: the same shape as a
    setting of the decoder. parameters: the published figure, rounded to `unit` (1: exact). source:
    where both stand. differences: what the published count holds that ours does not, or negative
    the other way round. note: what else a reader of the table should know. training: None where it
    was not published, or the model was only timed.
    """

    name: str
    title: str
    config: DecoderConfig
    parameters: int
    unit: int = 1
    source: str
    differences: tuple[tuple[str, int], ...] = ()
    note: str = ""
    training: Training | None = None

    @property
    def counted(self) -> int:
        """Ours with the differences: what the published figure should be, before rounding."""
        return self.config.parameters() + sum(number for _, number in self.differences)

    @property
    def exact(self) -> bool:
        """Whether the decoder has exactly as many parameters as were published to the last one."""
        return self.unit == 1 and self.config.parameters() == self.parameters

    @property
    def reproduced(self) -> bool:
        """Whether `counted` is the published figure, to half its unit."""
        return self.meets(self.counted)

    def meets(self, count: int) -> bool:
        """Whether a count rounds to the published figure."""
        return 2 * abs(count - self.parameters) <= self.unit - (self.unit == 1)

    @property
    def explanation(self) -> str:
        """Ours, every difference and the published figure in one line of numbers that add up."""
        ours = self.config.parameters()
        line = f"{ours:,}"
        for reason, number in self.differences:
            line += f" {'+' if number > 0 else '-'} {abs(number):,} {reason}"
        if self.differences:
            line += f" = {self.counted:,}"
        if self.unit == 1:
            return f"{line}, exactly as published ({self.source})"
        millions = f"{self.parameters // MILLION:,}"
        return f"{line}, which rounds to the published {millions} million ({self.source})"


def names() -> list[str]:
    """Every published architecture, family by family."""
    return list(_all())


def published(name: str) -> Published:
    """The architecture of that name. Raises WrongUse, with the nearest name, for another."""
    known = _all()
    if name not in known:
        raise WrongUse(f"unknown architecture {name}{did_you_mean(name, known)}")
    return known[name]


@functools.cache
def _all() -> dict[str, Published]:
    parts = (_gpt2, _gpt3, _eleuther, _megatron, _palm, _deepmind, _bloom, _llama)
    return {model.name: model for part in parts for model in part()}


def shape(
    family: Callable[..., DecoderConfig], sizes: tuple[int, ...], **rest: Any
) -> DecoderConfig:
    """A family's config from (vocabulary, context, depth, width, heads)."""
    keys = ("vocabulary", "context", "depth", "width", "heads")
    return family(**dict(zip(keys, sizes, strict=True)), **rest)


def _gpt2() -> list[Published]:
    rows = (
        ("124m", 12, 768, 12, 124_439_808, "117M"),
        ("355m", 24, 1024, 16, 354_823_168, "345M"),
        ("774m", 36, 1280, 20, 774_030_080, "762M"),
        ("1.5b", 48, 1600, 25, 1_557_611_200, "1542M"),
    )
    return [
        Published(
            name=f"gpt2-{size}",
            title=f"GPT-2 {size.upper()}",
            config=shape(families.gpt2, (OPENAI, 1024, depth, width, heads)),
            parameters=count,
            source="the released weights; Radford et al. 2019, table 2",
            note=f"the paper's table says {printed}, which its authors corrected with the release",
        )
        for size, depth, width, heads, count, printed in rows
    ]


def _gpt3() -> list[Published]:
    rows = (  # table 2.1, and the parameters in millions of table D.1
        ("125m", 12, 768, 12, 256, 6.0e-4, 125, MILLION),
        ("350m", 24, 1024, 16, 256, 3.0e-4, 356, MILLION),
        ("760m", 24, 1536, 16, 256, 2.5e-4, 760, MILLION),
        ("1.3b", 24, 2048, 16, 512, 2.0e-4, 1_320, 10 * MILLION),
        ("2.7b", 32, 2560, 32, 512, 1.6e-4, 2_650, 10 * MILLION),
        ("6.7b", 32, 4096, 32, 1024, 1.2e-4, 6_660, 10 * MILLION),
        ("13b", 40, 5120, 40, 1024, 1.0e-4, 12_850, 10 * MILLION),
        ("175b", 96, 12288, 96, 1536, 0.6e-4, 174_600, 10 * MILLION),
    )
    typos = {
        "1.3b": "table 2.1 prints 24 heads of 128, which is 3,072 and not the width: 16 are meant",
        "13b": "table 2.1 prints a width of 5,140, which 40 heads of 128 do not make, and which "
        "would give 12,950 million: 5,120 is meant",
    }
    published_models = []
    for size, depth, width, heads, batch, rate, millions, unit in rows:
        training = Training(
            tokens=300 * BILLION,
            batch=batch,
            learning_rate=rate,
            warmup_tokens=375 * MILLION,
            otherwise="the cosine ended after 260 billion tokens, and the batch grew from 32,000 "
            "tokens over the first 4 to 12 billion",
        )
        published_models.append(
            Published(
                name=f"gpt3-{size}",
                title=f"GPT-3 {size.upper()}",
                config=shape(families.gpt3, (OPENAI, 2048, depth, width, heads)),
                parameters=millions * MILLION,
                unit=unit,
                source="Brown et al. 2020, tables 2.1 and D.1",
                note=typos.get(size, ""),
                training=training,
            )
        )
    return published_models


def _eleuther() -> list[Published]:
    j = shape(families.gptj, (50_400, 2048, 28, 4096, 16), rotary_dims=64)
    neox = shape(families.neox, (50_432, 2048, 44, 6144, 64), rotary_dims=24)
    copies = 7 * (j.depth * 3 + 2) * j.width  # gain, bias and output bias; the last norm's two
    return [
        Published(
            name="gptj-6b",
            title="GPT-J-6B",
            config=j,
            parameters=6_053_381_344,
            source="Wang and Komatsuzaki 2021, the README of mesh-transformer-jax",
            differences=(
                ("of the norms and the feed-forward output biases, counted on all 8 shards", copies),
                ("of an embedding bias on each of 8 shards, folded away on release", 8 * j.width),
            ),
            note="the released weights hold 6,050,882,784, exactly as here",
            training=Training(
                tokens=402 * BILLION,
                batch=512,
                learning_rate=1.2e-4,
                warmup_tokens=3_000 * 512 * 2048,
                beta2=0.999,
                otherwise="the cosine ended after 300,000 of 383,500 steps",
            ),
        ),
        Published(
            name="gpt-neox-20b",
            title="GPT-NeoX-20B",
            config=neox,
            parameters=20_554_567_680,
            source="Black et al. 2022, and the model's card",
            differences=(
                ("of a second norm in every block, for its feed-forward branch",
                 neox.depth * 2 * neox.width),
            ),
            note="its parallel block norms each branch's input by itself, ours both by one norm",
            training=Training(
                tokens=150_000 * 1536 * 2048,
                batch=1536,
                learning_rate=0.97e-4,
                warmup_tokens=1_500 * 1536 * 2048,
                weight_decay=0.01,
            ),
        ),
    ]  # fmt: skip


def _megatron() -> list[Published]:
    rows = (
        ("1.2b", 40, 1536, 16, 1_200, False),
        ("2.5b", 54, 1920, 20, 2_500, True),
        ("4.2b", 64, 2304, 24, 4_200, False),
        ("8.3b", 72, 3072, 24, 8_300, True),
    )
    trained = Training(
        tokens=300_000 * 512 * 1024,
        batch=512,
        learning_rate=1.5e-4,
        warmup_tokens=3_000 * 512 * 1024,
        floor=1e-5 / 1.5e-4,
        beta2=0.999,
        weight_decay=0.01,
    )
    megatron = [
        Published(
            name=f"megatron-{size}",
            title=f"Megatron-LM {size.upper()}",
            config=shape(families.gpt2, (PADDED, 1024, depth, width, heads), dropout=0.1),
            parameters=millions * MILLION,
            unit=100 * MILLION,
            source="Shoeybi et al. 2019, tables 1 and 2",
            note="GPT-2's vocabulary of 50,257 padded to 51,200, a multiple of 128 for each of 8 ranks"
            + ("" if trains else "; only timed in the paper, not trained to the end"),
            training=trained if trains else None,
        )
        for size, depth, width, heads, millions, trains in rows
    ]
    turing = Published(
        name="turing-nlg-17b",
        title="Turing-NLG 17B",
        config=shape(families.gpt2, (50_688, 1024, 78, 4256, 28), dropout=0.1),
        parameters=17 * BILLION,
        unit=BILLION,
        source="Rosset 2020, the announcement of Turing-NLG",
        note="its vocabulary is not published: GPT-2's, padded for its 4 tensor ranks, is assumed",
        training=replace(
            trained,
            warmup_tokens=3_200 * 512 * 1024,
            otherwise="the cosine was set to end after 500,000 steps, of which 300,000 were taken",
        ),
    )
    return [*megatron, turing]


def _palm() -> list[Published]:
    rows = (
        ("8b", 32, 4096, 16, 512, 8_630),
        ("62b", 64, 8192, 32, 1024, 62_500),
        ("540b", 118, 18432, 48, 2048, 540_350),
    )
    published_models = []
    for size, depth, width, heads, batch, millions in rows:
        config = shape(families.palm, (256_000, 2048, depth, width, heads), head_dim=256)
        # Adafactor's rate multiplies the root mean square of a matrix, 1/sqrt(width) at the start.
        rate = 0.01 / width**0.5
        gains = config.parameters_by_role()[Role.VECTOR]
        published_models.append(
            Published(
                name=f"palm-{size}",
                title=f"PaLM {size.upper()}",
                config=config,
                parameters=millions * MILLION,
                unit=10 * MILLION,
                source="Chowdhery et al. 2022, table 1",
                differences=(("of the norms' gains", -gains),) if size == "540b" else (),
                note="the vocabulary's 256k are 256,000: with 262,144 no size would fit"
                + ("; with the gains it would round to 540,360 million" if size == "540b" else ""),
                training=Training(
                    tokens=780 * BILLION,
                    batch=batch,
                    learning_rate=rate,
                    warmup_tokens=0,
                    floor=0.2,
                    beta2=0.999,
                    weight_decay=0.01**2 / rate,
                    z_loss=1e-4,
                    otherwise="Adafactor scaled by each matrix, whose rate of 0.01 for 10,000 steps "
                    "fell with the inverse root of the step; the batch doubled once or twice",
                ),
            )
        )
    return published_models


def _deepmind() -> list[Published]:
    rows = (
        ("gopher-280b", "Gopher 280B", 16384, 128, 280, 3072, 4e-5, 300 * BILLION, 0.0, 0.25),
        ("chinchilla-70b", "Chinchilla 70B", 8192, 64, 70, 1536, 1e-4, 1_400 * BILLION, 0.1, 1.0),
    )
    sources = ("Rae et al. 2021, table 1", "Hoffmann et al. 2022, table 4")
    published_models = []
    for row, source in zip(rows, sources, strict=True):
        name, title, width, heads, billions, batch, rate, tokens, decay, clip = row
        config = shape(families.gopher, (32_000, 2048, 80, width, heads))
        published_models.append(
            Published(
                name=name,
                title=title,
                config=config,
                parameters=billions * BILLION,
                unit=BILLION,
                source=source,
                differences=(
                    (
                        "of a key matrix for relative positions in every block",
                        config.depth * width**2,
                    ),
                ),
                note="the positions are relative as in Transformer-XL, which the decoder has not: "
                "rotary ones stand in, without parameters",
                training=Training(
                    tokens=tokens,
                    batch=batch,
                    learning_rate=rate,
                    warmup_tokens=1_500 * batch * 2048,
                    weight_decay=decay,
                    clip=clip,
                    otherwise="the batch was half as large at first; the betas are not printed"
                    + ("" if clip < 1 else ", nor are decay, clip and warm-up: Gopher's or usual"),
                ),
            )
        )
    return published_models


def _bloom() -> list[Published]:
    rows = (
        ("560m", 24, 1024, 16, 559_214_592, 256, 3.0e-4),
        ("1b1", 24, 1536, 16, 1_065_314_304, 256, 2.5e-4),
        ("1b7", 24, 2048, 16, 1_722_408_960, 512, 2.0e-4),
        ("3b", 30, 2560, 32, 3_002_557_440, 512, 1.6e-4),
        ("7b1", 30, 4096, 32, 7_069_016_064, 512, 1.2e-4),
        ("176b", 70, 14336, 112, 176_247_271_424, 2048, 0.6e-4),
    )
    return [
        Published(
            name=f"bloom-{size}",
            title=f"BLOOM {size.upper()}",
            config=shape(families.bloom, (250_880, 2048, depth, width, heads)),
            parameters=count,
            source="Scao et al. 2022, table 3, and the model's card",
            note="250,680 tokens padded to 250,880",
            training=Training(
                tokens=(366 if size == "176b" else 341) * BILLION,
                batch=batch,
                learning_rate=rate,
                warmup_tokens=375 * MILLION,
                otherwise="the cosine was set to end after 410 billion tokens",
            ),
        )
        for size, depth, width, heads, count, batch, rate in rows
    ]


def _llama() -> list[Published]:
    rows = (
        ("7b", 32, 4096, 32, 11008, 6_738_415_616, 3.0e-4, 1_000),
        ("13b", 40, 5120, 40, 13824, 13_015_864_320, 3.0e-4, 1_000),
        ("33b", 60, 6656, 52, 17920, 32_528_943_616, 1.5e-4, 1_400),
        ("65b", 80, 8192, 64, 22016, 65_285_660_672, 1.5e-4, 1_400),
    )
    return [
        Published(
            name=f"llama-{size}",
            title=f"LLaMA {size.upper()}",
            config=shape(families.llama, (32_000, 2048, depth, width, heads), hidden=hidden),
            parameters=count,
            source="the released weights; Touvron et al. 2023, table 2",
            training=Training(
                tokens=billions * BILLION,
                batch=2048,
                learning_rate=rate,
                warmup_tokens=2_000 * 2048 * 2048,
            ),
        )
        for size, depth, width, heads, hidden, count, rate, billions in rows
    ]
