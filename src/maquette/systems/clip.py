"""CLIP: pictures and captions in one space, by telling which belong together (Radford et al. 2021).

    maquette train clip --run runs/clip       about 4 minutes on 2 cores
    maquette eval runs/clip                   retrieval, naming and binding of held-out pictures
    maquette reproduce clip                   about 20 minutes on 2 cores, 2 seeds, one on each

The paper trains both towers on 400 million pairs in batches of 32,768, and names the classes of ImageNet,
none of whose pictures were labelled for it, as well as a ResNet-50 that learnt from 1.28 million of its
labels. Scaled down: 0.9 million parameters, pictures of 32 x 32, two shapes a picture and eight words
a caption, 1,152 captions in all, batches of 128. What no training picture showed is 6 of the 24 pairs of
colour and shape: the first shape of every held-out picture is one of them.

`siglip` learns the same with the sigmoid loss (Zhai et al. 2023), whose pairs are judged one by one.

Tried on seed 0 before anything was claimed, in a third of the steps or less: rates 0.0007, 0.0015, 0.002
and 0.004, batches of 64, three blocks in place of four, positions drawn at random. At 0.004 no shapes were
learnt, which come late, after colours and relations. The rate used lies between those that did best; it
was not held against them at full length. The rates of the sigmoid loss were not searched.

Expected: `retrieval` (0.71) and `binding` (0.998) hold. `zero-shot` fails (0.17): of a pair that was
never shown the colour is named, but the shape is one that this colour was shown with; of pairs that
training showed 0.64 are named. The mean of the captions, as in the paper, and the sum of their
probabilities were both looked at in pilots; neither names such pairs. `sigmoid` fails: in batches of 32
the softmax loss retrieves 24.1 % of the captions, the sigmoid loss, at the other's rate, 7.5 %.
"""

from dataclasses import replace
from typing import Any

import altair as alt
import numpy as np
import torch

from maquette.base.statistics import Share, pooled
from maquette.corpus.pictures.store import Numbers, PictureSplit, Pixels
from maquette.evaluation import zero_shot as scores
from maquette.evaluation.zero_shot import Encoded, encode_captions, encode_pictures, every_label
from maquette.experiments.bases.clip import MODEL, clip_recipe
from maquette.experiments.catalogue import recipe
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.lab import Lab
from maquette.models.clip import Clip
from maquette.training.datasets.picture_config import PictureRecipe, PictureWatch
from maquette.workshop import charts
from maquette.workshop.load_pictures import LoadedPictures, load_pictures
from maquette.worlds.captions import caption_of
from maquette.worlds.captions import captions as captions_of
from maquette.worlds.draw import scenes
from maquette.worlds.render import render
from maquette.worlds.shapes import Integers, Shapes, shown_pairs

HELD = Shapes(held_out=6)
SMALL_BATCH, SMALL_STEPS = 32, 2400
PICTURES = 2000  # scored, of every network


@recipe
def clip() -> PictureRecipe:
    """A Vision Transformer of width 128 and a transformer of width 64, on every pair."""
    return replace(clip_recipe(), precision="auto", watch=PictureWatch())


@recipe
def siglip() -> PictureRecipe:
    """The same towers, each pair of a batch judged by itself, in batches of 32."""
    sigmoid = replace(clip_recipe(objective="sigmoid"), batch=SMALL_BATCH, steps=SMALL_STEPS)
    return replace(sigmoid, precision="auto", watch=PictureWatch())


@claim(
    statement="pairs of colour and shape that no training picture showed are named from their captions",
    source="Radford et al. 2021, section 3.1; compositional scale model",
    metric="share of held-out pictures whose first shape's pair, never shown, is named right among 24: "
    "lower end of its 95 % interval, pictures of all seeds",
    at_least=0.5,
    control="the same networks before training",
    minutes=8,
)
def zero_shot(lab: Lab) -> Measurement:
    """Name the pair by the mean of the 48 captions that begin with it, none of them learnt from."""
    tests = [Test(path, lab) for path in held_runs(lab)]
    shares = [t.naming(t.unseen) for t in tests]
    untrained = [t.untrained().naming(t.unseen) for t in tests]
    shown = [t.naming(t.shown) for t in tests]
    details = {"pairs that training showed": pooled(shown).to_dict()}
    title = "A pair of colour and shape named, of 24"
    return measured(shares, untrained, details, "share named right", title, 1 / 24)


@claim(
    statement="of all captions, a held-out picture's own is closest to it more often than not",
    source="Radford et al. 2021, figure 3 and section 3.1",
    metric="recall at 1 of 1,152 captions, new pictures of pairs that training showed: lower end of "
    "its 95 % interval, pictures of all seeds",
    at_least=0.5,
    control="the same networks before training",
    minutes=0.5,
)
def retrieval(lab: Lab) -> Measurement:
    """Look up captions; the details hold recall at 5, and pictures of pairs that were never shown."""
    tests = [Test(path, lab) for path in held_runs(lab)]
    shares = [t.recall(t.shown, 1) for t in tests]
    untrained = [t.untrained().recall(t.shown, 1) for t in tests]
    details = {
        "recall at 5": pooled([t.recall(t.shown, 5) for t in tests]).to_dict(),
        "never shown, at 1": pooled([t.recall(t.unseen, 1) for t in tests]).to_dict(),
        "never shown, at 5": pooled([t.recall(t.unseen, 5) for t in tests]).to_dict(),
    }
    return measured(shares, untrained, details, "recall at 1",
                    "Its own caption found, of 1,152", 1 / 1152)  # fmt: skip


@claim(
    statement="a caption whose two colours are exchanged fits a picture less than its own",
    source="Radford et al. 2021 do not test it; Yuksekgonul et al. 2023 do",
    metric="share of pictures never shown in training, of two colours and two shapes, that are "
    "closer to their own caption: lower end of its 95 % interval, all seeds",
    at_least=0.75,
    control="the same networks before training",
    minutes=0.5,
)
def binding(lab: Lab) -> Measurement:
    """Both captions have the same words, so that knowing words alone gives one half."""
    tests = [Test(path, lab) for path in held_runs(lab)]
    shares = [t.binding(t.unseen) for t in tests]
    untrained = [t.untrained().binding(t.unseen) for t in tests]
    shown = pooled([t.binding(t.shown) for t in tests])
    return measured(shares, untrained, {"pairs that training showed": shown.to_dict()},
                    "share closer to its own caption", "Colours exchanged", 0.5)  # fmt: skip


@claim(
    statement="in small batches the sigmoid loss does no worse than the softmax loss by 5 points",
    source="Zhai et al. 2023, figure 2 (below batches of 16,000 it is ahead)",
    metric=f"recall at 1 of 1,152 captions, softmax less sigmoid, both in batches of {SMALL_BATCH}",
    at_most=0.05,
    control="softmax less the sigmoid network before training",
    minutes=13,
)
def sigmoid(lab: Lab) -> Measurement:
    """Train both losses alike, side by side, on the same pictures in the same order."""
    recipes = []
    for seed in range(lab.seeds):
        for objective in ("softmax", "sigmoid"):
            recipe = clip_recipe(seed, lab.quick, world=HELD, objective=objective)
            small = replace(recipe, batch=SMALL_BATCH, steps=SMALL_STEPS)
            recipes.append(recipe if lab.quick else small)
    tests = [Test(path, lab) for path in lab.train_all(recipes)]
    shares = [t.recall(t.shown, 1) for t in tests]
    softmax, sigmoid = pooled(shares[::2]), pooled(shares[1::2])
    untrained = pooled([t.untrained().recall(t.shown, 1) for t in tests[1::2]])
    each = [a.value - b.value for a, b in zip(shares[::2], shares[1::2], strict=True)]
    rows = [("softmax", s) for s in shares[::2]] + [("sigmoid", s) for s in shares[1::2]]
    return Measurement(
        value=softmax.value - sigmoid.value,
        control=softmax.value - untrained.value,
        interval=(min(each), max(each)),
        details={"softmax": softmax.to_dict(), "sigmoid": sigmoid.to_dict(), "by seed": each},
        chart=bars(rows, "recall at 1", f"Two losses in batches of {SMALL_BATCH}", 1 / 1152),
    )


def held_runs(lab: Lab) -> list[Any]:
    """A CLIP of every seed that never saw six of the pairs."""
    return lab.train_all([clip_recipe(s, lab.quick, world=HELD) for s in range(lab.seeds)])


class Drawn(PictureSplit):
    """The first held-out scenes, as a split; `labels`: (n, 5), what they show, drawn if None."""

    def __init__(self, n: int, labels: Integers | None = None) -> None:
        self.scenes = scenes(HELD, 1, np.arange(n), "heldout", labels)

    def __len__(self) -> int:
        return len(self.scenes)

    def pictures(self, indices: Numbers) -> Pixels:
        return render(self.scenes[indices], MODEL.image_size)

    def captions(self, indices: Numbers) -> list[str]:
        return captions_of(self.scenes[indices])

    def labels(self, indices: Numbers) -> Numbers | None:
        return self.scenes.labels[indices]


class Test:
    """A network on held-out pictures: `unseen`, whose first pair was never shown, and `shown`."""

    def __init__(self, run: Any, lab: Lab, model: Clip | None = None) -> None:
        self.run, self.lab = run, lab
        self.loaded: LoadedPictures = load_pictures(run)
        assert isinstance(self.loaded.model, Clip)
        self.model = model or self.loaded.model
        n = 40 if lab.quick else PICTURES
        numbers = np.arange(n)
        self.unseen = encode_pictures(self.model, Drawn(n), numbers)
        self.shown = encode_pictures(self.model, Drawn(n, shown_labels(n)), numbers)
        self.labels = every_label(HELD)
        texts = [caption_of(row, HELD) for row in self.labels]
        self.captions = encode_captions(self.model, self.loaded.captions, texts)
        self.index = {text: i for i, text in enumerate(texts)}

    def untrained(self) -> "Test":
        """The same network as it began."""
        recipe = self.loaded.recipe
        fresh = recipe.model.build().initialise(recipe.seed)
        assert isinstance(fresh, Clip)
        return Test(self.run, self.lab, fresh.eval())

    def naming(self, seen: Encoded) -> Share:
        return scores.naming(seen, self.captions, self.labels, HELD)

    def recall(self, seen: Encoded, k: int) -> Share:
        """Pictures whose own caption is among the k closest of all."""
        right = torch.zeros(len(seen.captions), len(self.captions), dtype=torch.bool)
        right[torch.arange(len(right)), [self.index[text] for text in seen.captions]] = True
        return scores.recall(seen.pictures, self.captions, right, k)

    def binding(self, seen: Encoded) -> Share:
        return scores.binding(self.model, self.loaded.captions, seen, HELD)


def shown_labels(n: int) -> Integers:
    """(n, 5): labels of two pairs that training shows, drawn evenly."""
    draw = np.random.default_rng(0)
    pairs = np.array(shown_pairs(HELD), np.int64)
    first, second = (pairs[draw.integers(len(pairs), size=n)] for _ in range(2))
    return np.concatenate([first, second, draw.integers(2, size=(n, 1))], axis=1)


def measured(
    shares: list[Share],
    control: list[Share],
    details: dict[str, Any],
    axis: str,
    title: str,
    chance: float,
) -> Measurement:
    """The lower end of the pooled share's interval, and of the control's."""
    share, other = pooled(shares), pooled(control)
    rows = [("trained", s) for s in shares] + [("before training", s) for s in control]
    return Measurement(
        value=share.interval[0],
        control=other.interval[0],
        interval=share.interval,
        details={
            "share": share.to_dict(),
            "by seed": [s.value for s in shares],
            "control": other.to_dict(),
            "chance": chance,
        }
        | details,
        chart=bars(rows, axis, title, chance),
    )


def bars(rows: list[tuple[str, Share]], axis: str, title: str, chance: float) -> Any:
    """Each network's share with its interval, and chance as a line."""
    order = list(dict.fromkeys(name for name, _ in rows))
    values = [
        {"what": name, "share": s.value, "low": s.interval[0], "high": s.interval[1]}
        for name, s in rows
    ]
    data = alt.Chart(alt.Data(values=values))
    y = alt.Y("what:N", title=None, sort=order)
    x = alt.X("share:Q", title=axis, scale=alt.Scale(domain=[0, 1]))
    line = alt.Chart(alt.Data(values=[{"chance": chance}]))
    return alt.layer(
        line.mark_rule(color=charts.FAINT, strokeDash=[4, 4]).encode(alt.X("chance:Q", title=axis)),
        data.mark_rule(color=charts.SECOND).encode(alt.X("low:Q", title=axis), y, x2="high:Q"),
        data.mark_point(filled=True, size=80, color=charts.ACCENT).encode(x, y),
    ).properties(width=charts.WIDTH, height=charts.HEIGHT // 3, title=title)
