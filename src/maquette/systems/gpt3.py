"""GPT-3: eight decoders from 125 million to 175 billion parameters (Brown et al. 2020).

    maquette plan gpt3-175b --device A100 --devices 1024      what the largest would take
    maquette train gpt3-125m --model.vocabulary 4096          the smallest, on the default corpus
    maquette reproduce gpt3                                   a few seconds

GPT-2's block with locally banded attention in every second layer, trained on 300 billion tokens of
filtered Common Crawl, WebText2, books and Wikipedia. The recipes are the rows of table 2.1 with its
batch and learning rate, in standard parametrisation. Two widths of the table cannot be meant as
printed (see `note` in `models/published.py`), and the band's width, which the paper does not print,
is 256 here.

Claimed is not the paper's result but that its architectures, and those of the other published
decoders, are these: counted by the decoder's own formula, every one of them must give the published
number of parameters, exactly or to the digits that were printed. Nothing is scaled down; nothing is
trained. Where a published count holds what the decoder has not (GPT-J's copies on its 8 shards,
GPT-NeoX's second norm, the relative positions of Gopher and Chinchilla), the difference is computed
from the shape and named in the result. The control is the usual estimate, 12 depth width^2 and the
embedding.

Expected: all 34 of 34; the estimate meets 6.
"""

from typing import Any

import altair as alt

from maquette.experiments.claims import Measurement, claim
from maquette.experiments.decoder_recipes import published_recipes
from maquette.experiments.lab import Lab
from maquette.models.config import DecoderConfig
from maquette.models.published import Published, names, published
from maquette.workshop import charts

SIZES = ("125m", "350m", "760m", "1.3b", "2.7b", "6.7b", "13b", "175b")
RECIPES = published_recipes(*(f"gpt3-{size}" for size in SIZES))


@claim(
    statement="the decoder's settings have the published number of parameters",
    source="Brown et al. 2020, tables 2.1 and D.1; for the others `models/published.py`",
    metric="share of the published architectures whose count is met to its last printed digit",
    at_least=1.0,
    control="the estimate 12 depth width^2 + vocabulary width",
    minutes=0.1,
    evidence="exact count",
)
def parameter_counts(lab: Lab) -> Measurement:
    """Count every published architecture by the config's sum, and by the estimate."""
    models = [published(name) for name in names()]
    met = [model.reproduced for model in models]
    roughly = [model.meets(estimate(model.config)) for model in models]
    return Measurement(
        value=sum(met) / len(models),
        control=sum(roughly) / len(models),
        seeds=1,
        details={
            "architectures": len(models),
            "met": sum(met),
            "exact_without_differences": sum(model.exact for model in models),
            "met_by_the_estimate": sum(roughly),
            "counts": {model.name: model.explanation for model in models},
        },
        chart=chart(models),
    )


def estimate(c: DecoderConfig) -> int:
    """The usual estimate of a decoder's size: its blocks' matrices and the embedding."""
    return 12 * c.depth * c.width**2 + c.vocabulary * c.width


def chart(models: list[Published]) -> Any:
    """Differences of our counts and of the estimate from the published figures."""
    points = [
        {
            "parameters": model.parameters,
            "off": 100 * (count / model.parameters - 1),
            "what": source,
        }
        for model in models
        for source, count in (("counted here", model.counted), ("estimate", estimate(model.config)))
    ]
    x = alt.X("parameters:Q", title="published parameters", axis=alt.Axis(format="~s"),
              scale=alt.Scale(type="log"))  # fmt: skip
    y = alt.Y("off:Q", title="off by (%)")
    color = alt.Color("what:N", title=None, sort=["counted here", "estimate"])
    return (
        alt.Chart(alt.Data(values=points))
        .mark_point(filled=True, size=60)
        .encode(x, y, color)
        .properties(
            width=charts.WIDTH, height=charts.HEIGHT, title="Published sizes, counted again"
        )
    )
