"""Zero-shot evaluation of a CLIP: classification, retrieval and binding.

A class is the mean of the embeddings of several captions that hold its name, the prompts, and a picture
is of the class whose mean it is closest to (Radford et al. 2021, sections 3.1.2 and 3.1.4). Retrieval finds
the caption of a picture among many, or the picture of a caption. In the world of shapes,

    naming      colour and shape of the first object, of all pairs there are, by captions of two objects
    binding     whether the caption lies closer than the same one with its two colours exchanged

Every share comes with its 95 % interval (Wilson 1927).
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maquette.base.errors import UserError, WrongUse
from maquette.base.statistics import Share
from maquette.corpus.pictures.store import Numbers, PictureSplit
from maquette.models.clip import Clip
from maquette.worlds.captions import caption_of
from maquette.worlds.shapes import Shapes, label_names, label_sizes

MOST_CAPTIONS = 1 << 14
Tokenise = Callable[[list[str]], Tensor]
Progress = Callable[[int, int], None]
OBJECTS = ("colour 1", "shape 1", "colour 2", "shape 2", "relation")


@dataclass(frozen=True)
class Encoded:
    """Held-out pictures, what is known of them, and their embeddings."""

    pictures: Tensor  # (n, d), of length 1
    captions: list[str]
    labels: Numbers | None  # (n, factors)


@torch.no_grad()
def encode_pictures(
    model: Clip,
    split: PictureSplit,
    indices: Numbers,
    batch: int = 250,
    progress: Progress = lambda done, total: None,
) -> Encoded:
    """Pictures of a split with their embeddings, on the processor; the model is left in its mode."""
    device, training = next(model.parameters()).device, model.training
    model.eval()
    parts = []
    for first in range(0, len(indices), batch):
        some = indices[first : first + batch]
        x = torch.from_numpy(np.ascontiguousarray(split.pictures(some))).to(device)
        x = x.permute(0, 3, 1, 2).float().div(127.5).sub(1.0)
        parts.append(model.embed_pictures(x).cpu())
        progress(first + len(some), len(indices))
    model.train(training)
    return Encoded(torch.cat(parts), split.captions(indices), split.labels(indices))


@torch.no_grad()
def encode_captions(model: Clip, tokenise: Tokenise, texts: Sequence[str]) -> Tensor:
    """(n, d) of length 1, on the processor."""
    device, training = next(model.parameters()).device, model.training
    model.eval()
    parts = [
        model.embed_captions(tokenise(list(texts[i : i + 250])).to(device)).cpu()
        for i in range(0, len(texts), 250)
    ]
    model.train(training)
    return torch.cat(parts)


def ensemble(captions: Tensor, classes: Tensor) -> Tensor:
    """The mean of the captions (m, d) of every class, of length 1: (largest class + 1, d).

    classes: (m,) int64, the class whose prompt each caption is. Radford et al. 2021, section 3.1.4.
    """
    sums = torch.zeros(int(classes.max()) + 1, captions.shape[1])
    return F.normalize(sums.index_add_(0, classes, captions), dim=1)


def nearest(pictures: Tensor, candidates: Tensor) -> Tensor:
    """The candidate (m, d) that each picture (n, d) is closest to: (n,)."""
    return (pictures @ candidates.T).argmax(dim=1)


def recall(queries: Tensor, candidates: Tensor, right: Tensor, k: int) -> Share:
    """Queries (n, d) with one that is right among the k candidates (m, d) that are closest.

    right: (n, m) booleans. A query without any right candidate is a miss.
    """
    best = (queries @ candidates.T).topk(min(k, len(candidates)), dim=1).indices
    hits = right.gather(1, best).any(dim=1)
    return Share(int(hits.sum()), len(queries))


def retrieval(
    pictures: Tensor, texts: Sequence[str], captions: Tensor, own: Sequence[str]
) -> dict[str, Any]:
    """Recall at 1 and 5 both ways. texts: different captions, `captions` (m, d) their embeddings.

    own: the caption of each picture (n, d). Pictures are sought for the texts that some picture has.
    """
    index = {text: i for i, text in enumerate(texts)}
    right = torch.zeros(len(own), len(texts), dtype=torch.bool)
    for row, text in enumerate(own):
        right[row, index[text]] = True
    matched = right.any(dim=0)
    return {
        "captions": len(texts),
        "caption of a picture": {
            f"recall@{k}": recall(pictures, captions, right, k).to_dict() for k in (1, 5)
        },
        "picture of a caption": {
            f"recall@{k}": recall(captions[matched], pictures, right.T[matched], k).to_dict()
            for k in (1, 5)
        },
    }


def every_label(world: Shapes) -> Numbers:
    """All labels that a scene of the world can have, (m, factors)."""
    sizes = label_sizes(world)
    if np.prod(sizes) > MOST_CAPTIONS:
        raise WrongUse(f"this world has {np.prod(sizes):,} captions, over {MOST_CAPTIONS:,}")
    return np.array(list(itertools.product(*map(range, sizes))), np.int64)


def has_pairs(world: Shapes) -> bool:
    """Whether a scene is two shapes of two attributes and a relation, which naming is defined for."""
    return tuple(label_names(world)) == OBJECTS


def name_pairs(pictures: Tensor, captions: Tensor, labels: Numbers, world: Shapes) -> Tensor:
    """The (colour, shape) pair of the first object, as colour * shapes + shape: (n,).

    captions: (m, d) of all `labels` (m, 5); those with a pair are its prompts.
    """
    pairs = torch.from_numpy(labels[:, 0] * world.shapes + labels[:, 1])
    return nearest(pictures, ensemble(captions, pairs))


def naming(seen: Encoded, captions: Tensor, labels: Numbers, world: Shapes) -> Share:
    """Accuracy of naming the first object's colour and shape."""
    assert seen.labels is not None
    truth = seen.labels[:, 0] * world.shapes + seen.labels[:, 1]
    named = name_pairs(seen.pictures, captions, labels, world).numpy()
    return Share(int((named == truth).sum()), len(truth))


def binding(model: Clip, tokenise: Tokenise, seen: Encoded, world: Shapes) -> Share:
    """Accuracy of preferring the caption to the caption with its colours exchanged.

    Of the pictures whose objects differ in colour and in shape: with one shape, or one colour, the
    exchange says where things stand or nothing at all.
    """
    assert seen.labels is not None
    differ = (seen.labels[:, 0] != seen.labels[:, 2]) & (seen.labels[:, 1] != seen.labels[:, 3])
    labels = seen.labels[differ]
    if not len(labels):
        raise UserError("no picture has two objects of different colours and shapes: score more")
    swapped = labels[:, [2, 1, 0, 3, 4]]
    right, wrong = (
        encode_captions(model, tokenise, [caption_of(row, world) for row in rows])
        for rows in (labels, swapped)
    )
    pictures = seen.pictures[torch.from_numpy(differ)]
    closer = (pictures * right).sum(1) > (pictures * wrong).sum(1)
    return Share(int(closer.sum()), len(labels))


def zero_shot(
    loaded: Any,
    split: PictureSplit,
    *,
    world: Shapes | None = None,
    pictures: int = 1000,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Score the first `pictures` of a split, as `maquette eval RUN` prints it.

    loaded: has `model`, a Clip, and `captions(list of texts)`, their tokens. world: the world of the
    pictures, where they are drawn. Retrieval is among the different captions of the scored pictures, or
    in a world of two objects among all its captions; naming and binding are of such worlds alone.
    Raises UserError where there is nothing to score.
    """
    total = min(pictures, len(split))
    if total < 1:
        raise UserError("there are no held-out pictures to score: build the corpus with some")
    numbers = np.arange(total, dtype=np.int64)
    seen = encode_pictures(loaded.model, split, numbers, progress=progress)
    if not any(seen.captions):
        raise UserError("these pictures have no captions, and a CLIP is scored by them")
    out: dict[str, Any] = {"pictures": total}
    texts = list(dict.fromkeys(seen.captions))
    has_templates = world is not None and has_pairs(world) and world.phrasings == 1
    if world is not None and has_templates:
        labels = every_label(world)
        texts = [caption_of(row, world) for row in labels]
    encoded = encode_captions(loaded.model, loaded.captions, texts)
    out |= retrieval(seen.pictures, texts, encoded, seen.captions)
    if world is not None and has_templates:
        chance = 1 / (world.colours * world.shapes)
        out["naming"] = naming(seen, encoded, labels, world).to_dict() | {"chance": chance}
        share = binding(loaded.model, loaded.captions, seen, world)
        out["binding"] = share.to_dict() | {"chance": 0.5}
    return out
