"""Zero-shot scores: counts that can be checked by hand, and an embedding that knows the truth."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from maquette.base.errors import UserError, WrongUse
from maquette.evaluation import zero_shot as scores
from maquette.models.clip_config import ClipConfig
from maquette.worlds.captions import caption_of, parse
from maquette.worlds.shapes import Shapes, label_sizes

WORLD = Shapes()


def test_a_class_is_the_mean_of_its_prompts():
    captions = F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), dim=1)
    classes = scores.ensemble(captions, torch.tensor([0, 0, 1]))
    torch.testing.assert_close(classes[0], torch.tensor([0.5, 0.5]).sqrt())
    pictures = F.normalize(torch.tensor([[2.0, 1.0], [-3.0, 1.0]]), dim=1)
    assert scores.nearest(pictures, classes).tolist() == [0, 1]


def test_recall_counts_queries_with_a_right_one_among_the_closest():
    queries, candidates = torch.eye(3), torch.eye(3)
    right = torch.tensor([[True, False, False], [False, False, True], [False, True, False]])
    assert scores.recall(queries, candidates, right, 1).right == 1
    assert scores.recall(queries, candidates, right, 3).right == 3
    assert scores.recall(queries, candidates, right, 5).n == 3
    nothing = torch.zeros(3, 3, dtype=torch.bool)
    assert scores.recall(queries, candidates, nothing, 3).right == 0


def test_two_pictures_with_one_caption_share_it():
    """Neither is a miss for the other's sake, in either direction."""
    pictures = torch.eye(3)[[0, 0, 1]]
    found = scores.retrieval(pictures, ["a", "b", "c"], torch.eye(3), ["a", "a", "b"])
    assert found["captions"] == 3
    assert found["caption of a picture"]["recall@1"]["right"] == 3
    assert found["picture of a caption"]["recall@1"]["n"] == 2  # no picture has c
    assert found["picture of a caption"]["recall@1"]["right"] == 2


class Truthful:
    """Embeds a picture or a caption as its labels, one place for every value of every factor.

    Pictures carry their number in the first pixel, captions are their texts' numbers.
    """

    def __init__(self, split, texts, bag_of_words=False):
        self.config = SimpleNamespace(caption_length=8)
        self.training, self.weight = False, torch.zeros(1)
        self.split, self.texts, self.bag = split, texts, bag_of_words

    def parameters(self):
        yield self.weight

    def eval(self):
        return self

    def train(self, mode):
        return self

    def vector(self, labels):
        parts = [
            F.one_hot(torch.as_tensor(v), n)
            for v, n in zip(labels, label_sizes(WORLD), strict=True)
        ]
        if self.bag:  # knows which words there are, and not what belongs together
            parts = [parts[0] + parts[2], parts[1] + parts[3], parts[4]]
        return F.normalize(torch.cat(parts).float(), dim=0)

    def embed_pictures(self, pictures):
        numbers = ((pictures[:, 0, 0, 0] + 1) * 127.5).round().long()
        return torch.stack([self.vector(self.split.truth[i]) for i in numbers])

    def embed_captions(self, tokens):
        return torch.stack([self.vector(parse(self.texts[int(row[0])])) for row in tokens])

    def captions(self, texts):
        """As `LoadedPictures.captions`: here a caption's token is its place in a list."""
        start = len(self.texts)
        self.texts += texts
        return torch.arange(start, len(self.texts))[:, None]


class Numbered:
    """200 scenes whose pictures hold nothing but their number."""

    def __init__(self):
        draw = np.random.default_rng(0)
        self.truth = np.stack([draw.integers(n, size=200) for n in label_sizes(WORLD)], axis=1)

    def __len__(self):
        return 200

    def pictures(self, indices):
        out = np.zeros((len(indices), 4, 4, 3), np.uint8)
        out[:, 0, 0, 0] = indices
        return out

    def captions(self, indices):
        return [caption_of(row) for row in self.truth[indices]]

    def labels(self, indices):
        return self.truth[indices]


def scored(bag_of_words=False, pictures=200):
    split = Numbered()
    model = Truthful(split, [], bag_of_words)
    loaded = SimpleNamespace(model=model, captions=model.captions)
    return scores.zero_shot(loaded, split, world=WORLD, pictures=pictures)


def test_who_knows_the_truth_scores_everything():
    found = scored()
    assert found["captions"] == 1152
    assert found["caption of a picture"]["recall@1"]["share"] == 1
    assert found["picture of a caption"]["recall@1"]["share"] == 1
    assert found["naming"]["share"] == 1 and found["naming"]["chance"] == pytest.approx(1 / 24)
    assert found["binding"]["share"] == 1
    assert found["binding"]["n"] < 200  # some have one colour or one shape only
    assert found["binding"]["low"] < 1 == found["binding"]["high"]


def test_who_knows_words_alone_binds_nothing():
    found = scored(bag_of_words=True)
    assert found["binding"]["share"] == 0  # never strictly closer: both captions have its words
    assert found["caption of a picture"]["recall@1"]["share"] < 0.7
    assert found["naming"]["share"] < 0.5


def test_a_folder_of_pictures_is_scored_by_retrieval_alone():
    split = Numbered()
    model = Truthful(split, [])
    loaded = SimpleNamespace(model=model, captions=model.captions)
    found = scores.zero_shot(loaded, split, pictures=50)
    assert "naming" not in found and found["pictures"] == 50
    assert found["captions"] == len({caption_of(row) for row in split.truth[:50]})
    split.captions = lambda indices: [""] * len(indices)
    with pytest.raises(UserError, match="no captions"):
        scores.zero_shot(loaded, split)


def test_worlds_that_have_no_such_pairs_are_not_named():
    assert scores.has_pairs(WORLD) and not scores.has_pairs(replace(WORLD, objects=1))
    assert len(scores.every_label(WORLD)) == 1152
    with pytest.raises(WrongUse, match="captions, over"):
        scores.every_label(Shapes(objects=4))


def test_a_network_is_left_in_its_mode_and_embeds_in_batches():
    config = ClipConfig(
        width=16, depth=1, heads=2, patch=16, text_width=16, text_depth=1, text_heads=2
    )
    model = config.build().initialise(0).train()
    split = Numbered()
    split.pictures = lambda i: np.random.default_rng(0).integers(
        0, 256, (200, 32, 32, 3), dtype=np.uint8
    )[i]
    some = np.arange(7)
    one = scores.encode_pictures(model, split, some, batch=7)
    parts = scores.encode_pictures(model, split, some, batch=3)
    assert model.training
    torch.testing.assert_close(one.pictures, parts.pictures)
    assert one.pictures.shape == (7, 64) and not one.pictures.requires_grad
