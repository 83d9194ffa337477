"""DALL-E 2: from a caption to the embedding of a picture, and from that to a picture (Ramesh et al. 2022).

    maquette train dalle2-clip --run runs/clip
    maquette train dalle2-prior --run runs/prior --data.encoder runs/clip
    maquette train dalle2-decoder --run runs/decoder --data.encoder runs/clip
    maquette generate runs/decoder "a large red circle" --prior runs/prior --out a.png
    maquette reproduce dalle2             about 22 minutes on 2 cores, 2 seeds, and its bases

A frozen CLIP gives every picture an embedding. The prior draws the embedding of a picture that fits the
caption, the decoder draws a picture that has it: a caption leaves most of a picture open, and the two
share what is open. The paper's people found its pictures as good as GLIDE's and more various, most of
all under guidance, which cannot take away what the embedding has already said; they found a diffusion
prior better than an autoregressive one; and the text's embedding in the place of a picture's worse.

Scaled down: the embedding has 64 numbers, the prior 0.9 million parameters, the decoder 0.8 million: the
U-Net of the text model that it is held against (systems/diffusion.py), which in the claims it begins with
and goes on from for 2,000 steps. The decoder sees no caption, so that what it knows of one came through the
embedding; the paper shows it the caption, too. An oracle in the place of people. One CLIP, of seed 0, for
all; text models, priors and decoders of each seed. Left out: the upsamplers, which are GLIDE's.

Not compared: the cosine between the prior's embedding and the true one. It rises as a prior has fewer
steps, because the mean of all embeddings that fit has the highest (tests/test_prior.py shows it).

Expected: here a caption says all that the CLIP has reason to keep of a picture, and the two embeddings of a
pair lie close together (cosine 0.91); the paper's lie apart. So nothing is gained by the prior, and `prior`
fails: 56.6 % of its pictures are right, 61.1 % from the caption's own embedding, 45.5 % from the true
picture's. `autoregressive` holds: 56.6 and 36.7 %. `diversity` fails: under guidance unCLIP's pictures keep
0.71 of their variety, GLIDE's 0.85, and its share of right ones (43 %) is too far below GLIDE's (73 to 78
%) for the two to be compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import altair as alt
import numpy as np
import numpy.typing as npt

from maquette.base.statistics import mean_interval
from maquette.experiments.bases.clip import clip_recipe
from maquette.experiments.bases.text_to_picture import WORLD, text_recipe, text_runs
from maquette.experiments.catalogue import recipe
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.lab import Lab
from maquette.experiments.unclip_arms import (
    PLAIN,
    STRONG,
    Drawn,
    closeness,
    ratio,
    right_of,
    varied,
)
from maquette.models.clip_config import ClipConfig
from maquette.models.diffusion.config import DiffusionConfig
from maquette.models.prior_config import PriorConfig
from maquette.training.datasets.picture_config import PictureData, PictureRecipe, PictureWatch
from maquette.training.recipe import Optimiser, Schedule
from maquette.workshop import charts

Variant = Literal["diffusion", "autoregressive"]
ENOUGH = 0.3  # of pictures are right: below, any two priors are equally bad
TUNED = 2000  # steps of a decoder that begins with the text model
TRAINED = {"diffusion": 400, "autoregressive": 256}  # steps of about equal processor time in all


@recipe
def dalle2_clip() -> PictureRecipe:
    """The CLIP whose embeddings prior and decoder share."""
    recipe = clip_recipe(world=WORLD)
    return replace(recipe, name="dalle2-clip", precision="auto", watch=PictureWatch(grid=0))


@recipe
def dalle2_prior() -> PictureRecipe:
    """The diffusion prior; needs --data.encoder, a CLIP run."""
    return replace(prior_recipe(), precision="auto", watch=PictureWatch(grid=0))


@recipe
def dalle2_prior_autoregressive() -> PictureRecipe:
    """The autoregressive prior; needs --data.encoder, a CLIP run."""
    recipe = prior_recipe(variant="autoregressive")
    return replace(recipe, precision="auto", watch=PictureWatch(grid=0))


@recipe
def dalle2_decoder() -> PictureRecipe:
    """Pictures of 32 x 32 from embeddings; needs --data.encoder, a CLIP run."""
    return replace(decoder_recipe(), precision="auto", watch=PictureWatch(grid=0))


def prior_recipe(
    encoder: Path | str = "",
    seed: int = 0,
    quick: bool = False,
    variant: Variant = "diffusion",
) -> PictureRecipe:
    """A prior of the embeddings of the CLIP of `clip_recipe`."""
    seen = clip_recipe(quick=quick, world=WORLD)
    assert isinstance(seen.model, ClipConfig)
    model = PriorConfig(
        image_size=seen.model.image_size,
        variant=variant,
        embedding=seen.model.embedding,
        vocabulary=seen.model.vocabulary,
        caption_length=seen.data.caption_length,
        width=32 if quick else 128,
        depth=1 if quick else 4,
        components=8 if quick else None,
    )
    return PictureRecipe(
        name="dalle2-prior" if variant == "diffusion" else "dalle2-prior-autoregressive",
        model=model,
        data=PictureData(
            caption_length=seen.data.caption_length, world=seen.data.world, encoder=str(encoder)
        ),
        optimiser=Optimiser(learning_rate=0.002, beta2=0.98, average=0.99),
        schedule=Schedule(warmup=0.05, floor=0.02),
        batch=16 if quick else 128,
        steps=4 if quick else TRAINED[variant],
        seed=seed,
        compile="off",
        watch=PictureWatch(every=10_000, pictures=16 if quick else 512, grid=0, report=False),
    )


def decoder_recipe(
    encoder: Path | str = "",
    start: Path | str = "",
    seed: int = 0,
    quick: bool = False,
) -> PictureRecipe:
    """The text model of `text_recipe`, shown an embedding in the place of a caption.

    start: a run of the text model, whose U-Net it begins with; it then takes few steps.
    """
    base, seen = text_recipe(seed, quick), clip_recipe(quick=quick, world=WORLD)
    assert isinstance(base.model, DiffusionConfig) and isinstance(seen.model, ClipConfig)
    model = replace(base.model, condition="none", embedding=seen.model.embedding)
    data = replace(
        base.data,
        caption_length=seen.data.caption_length,
        world=seen.data.world,
        encoder=str(encoder),
    )
    recipe = replace(base, name="dalle2-decoder", model=model, data=data, start=str(start))
    return replace(recipe, steps=min(base.steps, TUNED)) if start else recipe


@claim(
    statement="a decoder makes more pictures right from the prior's embeddings than from the captions' own",
    source="Ramesh et al. 2022, section 5.1 and figure 8",
    metric="share of pictures with every attribute right, prior less text embedding: lower end of the "
    "95 % interval, pictures of all seeds",
    at_least=0.10,
    control="the prior, given the captions of other pictures",
    minutes=13,
)
def prior(lab: Lab) -> Measurement:
    """Draw the same captions from the same noise by way of each embedding; let the oracle read them."""
    arms = {
        "prior": "prior", "text embedding": "text", "other captions": "shuffled",
        "true picture's embedding": "true",
    }  # fmt: skip
    samples = drawn(lab, {name: ("diffusion", arm) for name, arm in arms.items()})
    gain = mean_interval(samples.less("prior", "text embedding"))
    control = mean_interval(samples.less("other captions", "text embedding"))
    return Measurement(
        value=gain[1],
        control=control[1],
        interval=(gain[1], gain[2]),
        details=samples.details()
        | {
            "gain, mean": gain[0],
            "cosine of a picture's embedding and its caption's": closeness(samples.clip, lab.quick),
        },
        chart=samples.chart("What the decoder makes of each embedding"),
    )


@claim(
    statement="a diffusion prior is at least as good as an autoregressive one that had as much time",
    source="Ramesh et al. 2022, section 5.1 and table 2",
    metric="share of pictures with every attribute right, diffusion prior less autoregressive: lower end of "
    "the 95 % interval; -1 where fewer than 30 % of the diffusion prior's are right",
    at_least=-0.02,
    control="the diffusion prior, given the captions of other pictures",
    minutes=6,
)
def autoregressive(lab: Lab) -> Measurement:
    """The same decoder for both; how long each trained is beside the measurement, under `bases`."""
    samples = drawn(
        lab,
        {
            "diffusion": ("diffusion", "prior"),
            "autoregressive": ("autoregressive", "prior"),
            "other captions": ("diffusion", "shuffled"),
        },
    )
    mean, low, high = mean_interval(samples.less("diffusion", "autoregressive"))
    return Measurement(
        value=low if samples.right["diffusion"].mean() >= ENOUGH else -1.0,
        control=mean_interval(samples.less("other captions", "autoregressive"))[0],
        interval=(low, high),
        details=samples.details() | {"difference": mean, "steps of training": TRAINED},
        chart=samples.chart("Two priors, trained for as long"),
    )


@claim(
    statement="guidance takes less of the variety of unCLIP's pictures than of GLIDE's",
    source="Ramesh et al. 2022, section 5.3 and figures 9 and 10",
    metric="diversity at w = 4 over that at w = 1, unCLIP's over GLIDE's: lower end of the 95 % interval "
    "over captions; 0 where their shares of right pictures at either differ by over 10 points",
    at_least=1.15,
    control="GLIDE against itself: half of its pictures against the other half",
    minutes=4,
)
def diversity(lab: Lab) -> Measurement:
    """Draw several pictures of each caption; fit scenes to the right ones; compare how they spread."""
    runs = [
        varied(
            models.decoder, models.priors["diffusion"], models.clip, models.text, seed, lab.quick
        )
        for seed, models in enumerate(trained(lab, ("diffusion",)))
    ]
    spread = {key: np.concatenate([run.spread[key] for run in runs]) for key in runs[0].spread}
    right = {key: float(np.mean([run.right[key] for run in runs])) for key in runs[0].right}
    gain = ratio(spread["unCLIP", PLAIN], spread["unCLIP", STRONG],
                 spread["GLIDE", PLAIN], spread["GLIDE", STRONG])  # fmt: skip
    halves = ratio(spread["first", PLAIN], spread["first", STRONG],
                   spread["second", PLAIN], spread["second", STRONG])  # fmt: skip
    apart = max(abs(right["unCLIP", w] - right["GLIDE", w]) for w in (PLAIN, STRONG))
    rows = [
        {"system": name, "w": w, "diversity": mean_of(spread[name, w]), "right": right[name, w]}
        for name in ("unCLIP", "GLIDE") for w in (PLAIN, STRONG)
    ]  # fmt: skip
    return Measurement(
        value=gain[1] if apart <= 0.10 else 0.0,
        control=halves[1],
        interval=(gain[1], gain[2]),
        details={
            "arms": rows,
            "ratio of ratios": gain[0],
            "captions with enough right pictures": int(np.isfinite(spread["GLIDE", STRONG]).sum()),
        },
        chart=variety(rows),
    )


@dataclass(frozen=True)
class Trained:
    """The runs of one seed."""

    clip: Path
    text: Path
    decoder: Path
    priors: dict[str, Path]


def trained(lab: Lab, variants: Sequence[Variant]) -> list[Trained]:
    """One CLIP, and for each seed a text model, a decoder that begins with it, and its priors."""
    seen = lab.train(clip_recipe(quick=lab.quick, world=WORLD))
    texts = [path for path, _ in text_runs(lab)]
    recipes = [decoder_recipe(seen, text, seed, lab.quick) for seed, text in enumerate(texts)]
    decoders = lab.train_all(recipes)
    priors: dict[str, list[Path]] = {}
    for variant in variants:
        seeds = range(lab.seeds)
        priors[variant] = lab.train_all([prior_recipe(seen, s, lab.quick, variant) for s in seeds])
    return [
        Trained(seen, text, decoder, {variant: runs[seed] for variant, runs in priors.items()})
        for seed, (text, decoder) in enumerate(zip(texts, decoders, strict=True))
    ]


def drawn(lab: Lab, arms: dict[str, tuple[Variant, str]]) -> Drawn:
    """The results of each arm on the captions of held-out scenes; see `right_of`."""
    variants = tuple(dict.fromkeys(variant for variant, _ in arms.values()))
    right: dict[str, list[Any]] = {name: [] for name in arms}
    error = 0.0
    runs = trained(lab, variants)
    for seed, models in enumerate(runs):
        for name, (variant, arm) in arms.items():
            correct, error = right_of(
                models.decoder, models.priors[variant], models.clip, arm, seed, lab.quick
            )
            right[name].append(correct)
    return Drawn(
        {name: np.concatenate(parts) for name, parts in right.items()}, error, runs[0].clip
    )


def mean_of(values: npt.NDArray[np.float64]) -> float | None:
    """Mean of the values that are not None; None without any."""
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else None


def variety(rows: list[dict[str, Any]]) -> Any:
    """Diversity against the share right: a line a system, from w = 1 to w = 4."""
    x = alt.X("right:Q", title="every attribute right", scale=alt.Scale(zero=False))
    y = alt.Y("diversity:Q", title="diversity (the world's own is 1)", scale=alt.Scale(zero=False))
    base = alt.Chart(alt.Data(values=rows)).encode(x, y)
    color = alt.Color("system:N", title=None)
    label = base.mark_text(align="left", dx=8).transform_calculate(what="'w = ' + datum.w")
    return alt.layer(
        base.mark_line().encode(color), base.mark_point(filled=True, size=80).encode(color),
        label.encode(text="what:N"),
    ).properties(width=charts.WIDTH, height=charts.HEIGHT, title="What guidance costs")  # fmt: skip
