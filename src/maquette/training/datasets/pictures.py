"""Batches of a picture run, each computed from its number alone.

Pictures are drawn or read, turned into (batch, 3, height, width) in [-1, 1] and given their captions'
tokens, for a frozen encoder too where the recipe names one, and their labels.
"""

import functools

import numpy as np
import torch
from torch import Tensor

from maquette.base.errors import UserError, WrongUse
from maquette.corpus.order import SampleOrder
from maquette.corpus.pictures.store import ENDLESS, Numbers, PictureCorpus, PictureSplit, Pixels
from maquette.corpus.tokenizer import Tokenizer
from maquette.models.base import PictureBatch
from maquette.training.datasets.encoder import (
    CaptionReader,
    caption_tokens,
    check_encoder,
    encoder_reader,
)
from maquette.training.datasets.picture_config import PictureRecipe

LOOKED_AT = 2000  # captions that are counted before a run


class PictureDataset:
    """The samples of a recipe on a corpus of pictures; see `datasets.Dataset`.

    Rank r of a step takes its contiguous share of the step's samples, so the union over ranks is
    the same batch for any number of them. Pictures of a world never come twice; stored ones come
    in a new order every epoch.
    """

    def __init__(self, recipe: PictureRecipe, corpus: PictureCorpus) -> None:
        data = recipe.data
        self._recipe, self.corpus = recipe, corpus
        self._split = corpus.split("train", data.image_size)
        available = len(self._split)
        count = available if data.count is None else min(data.count, available)
        if count < 1:
            raise UserError(f"{corpus.path} has no training pictures: add some, and build it again")
        self._order = None if count >= ENDLESS else SampleOrder(count + 1, 1, recipe.seed)

    @functools.cached_property
    def _reader(self) -> "Reader":
        data = self._recipe.data
        return Reader(self.corpus.tokenizer, data.caption_length, encoder_reader(data))

    def check(self) -> list[str]:
        """A note where captions are cut. Raises WrongUse where the model cannot learn from the corpus."""
        check_pictures(self._recipe, self.corpus)
        cut = cut_captions(self._recipe, self.corpus)
        return [] if cut is None else [cut]

    def step(self, sample: int, rank: int = 0, world: int = 1) -> list[PictureBatch]:
        """This rank's micro-batches of the step that starts at training sample `sample`."""
        share = self._recipe.batch // world
        micro = self._recipe.micro_batch or share
        first = sample + rank * share
        return [
            self._reader.batch(self._split, self._numbers(first + i, micro))
            for i in range(0, share, micro)
        ]

    def heldout(self) -> list[PictureBatch]:
        """See `heldout_pictures`."""
        return heldout_pictures(self._recipe, self.corpus)

    def _numbers(self, first: int, count: int) -> Numbers:
        if self._order is None:  # each seed sees pictures of its own
            offset = self._recipe.seed * (1 << 32)
            return np.arange(first, first + count, dtype=np.int64) + offset
        return np.array(self._order.starts(first, count), dtype=np.int64)


class Reader:
    """Pictures of a split as batches; see the file's docstring.

    tokenizer, caption_length: those of the trained model; an encoder reads captions by its own.
    """

    def __init__(
        self, tokenizer: Tokenizer, caption_length: int, encoder: CaptionReader | None = None
    ) -> None:
        self._tokenizer, self._caption_length, self._encoder = tokenizer, caption_length, encoder

    def token_ids(self, captions: list[str]) -> Tensor:
        """(n, caption_length) int64; see `caption_tokens`."""
        return caption_tokens(self._tokenizer, captions, self._caption_length)

    def batch(self, split: PictureSplit, indices: Numbers) -> PictureBatch:
        """The batch of the pictures at these indices."""
        labels, captions = split.labels(indices), split.captions(indices)
        return PictureBatch(
            to_tensor(split.pictures(indices)),
            self.token_ids(captions),
            None if labels is None else torch.from_numpy(labels),
            encoder_captions=None if self._encoder is None else self._encoder.token_ids(captions),
        )


def to_tensor(pixels: Pixels) -> Tensor:
    """uint8 (n, height, width, 3) -> fp32 (n, 3, height, width) in [-1, 1]."""
    x = torch.from_numpy(np.require(pixels, requirements=("C", "W"))).permute(0, 3, 1, 2)
    return x.float().div_(127.5).sub_(1.0).contiguous()


def to_pixels(pictures: Tensor) -> Pixels:
    """Inverse of `to_tensor`: clipped, rounded to the nearest level."""
    x = ((pictures.detach().float().cpu() + 1) * 127.5).round().clamp_(0, 255)
    return np.ascontiguousarray(x.to(torch.uint8).permute(0, 2, 3, 1).numpy())


def heldout_pictures(
    recipe: PictureRecipe,
    corpus: PictureCorpus,
    size: int = 64,
    tokenizer: Tokenizer | None = None,
) -> list[PictureBatch]:
    """The first held-out pictures, the same at every call. tokenizer: None for the corpus'."""
    split = corpus.split("heldout", recipe.data.image_size)
    count = min(len(split), recipe.watch.pictures)
    if count < 1:
        raise UserError(f"{corpus.path} has no held-out picture: build it again with a second one")
    reader = Reader(
        tokenizer or corpus.tokenizer, recipe.data.caption_length, encoder_reader(recipe.data)
    )
    numbers = np.arange(count, dtype=np.int64)
    return [reader.batch(split, numbers[i : i + size]) for i in range(0, count, size)]


def check_pictures(recipe: PictureRecipe, corpus: PictureCorpus) -> None:
    """Raise WrongUse where the recipe's model cannot learn from that corpus."""
    model = recipe.model
    if not len(corpus.split("heldout", recipe.data.image_size)):
        raise UserError(
            f"{corpus.path} has no held-out picture: add a second picture, and build it again"
        )
    check_encoder(recipe.data)
    _check_words(recipe)
    _check_batch(recipe)
    room = getattr(model, "vocabulary", None)
    if room is not None and room < corpus.vocabulary:
        raise WrongUse(
            f"model.vocabulary is {room}, the captions of {corpus.path} have {corpus.vocabulary} "
            f"tokens: use --model.vocabulary {corpus.vocabulary} or more"
        )
    classes = list(getattr(model, "classes", ()))
    wanted = getattr(model, "condition", "class") == "class"
    if classes and wanted and not corpus.label_sizes:
        raise WrongUse(
            f"{recipe.name} learns from labels, and {corpus.path} has none: put the pictures of each "
            f"class into a folder of its own, and build it again"
        )
    if classes and wanted and classes != corpus.label_sizes:
        raise WrongUse(
            f"model.classes is {classes}, the labels of {corpus.path} have {corpus.label_sizes} "
            f"values: use --model.classes {' '.join(map(str, corpus.label_sizes))}"
        )


def _check_words(recipe: PictureRecipe) -> None:
    room, caption_length = _room(recipe), recipe.data.caption_length
    exact = recipe.model.kind == "prior"
    if room is not None and (caption_length > room or (exact and caption_length != room)):
        raise WrongUse(
            f"data.caption_length is {caption_length}, model.caption_length is {room}: set both alike, as in "
            f"--data.caption-length {caption_length} --model.caption-length {caption_length}"
        )


def _check_batch(recipe: PictureRecipe) -> None:
    model, share = recipe.model, recipe.micro_batch or recipe.batch // recipe.ranks
    if getattr(model, "variant", "") == "autoregressive" and share <= getattr(model, "kept", 0):
        kept = getattr(model, "kept", 0)
        raise WrongUse(
            f"{kept} components of embeddings cannot be fitted to {share} pictures at a time: use a "
            f"--batch of {(kept + 1) * recipe.ranks} and a --micro-batch of {kept + 1} or more, or "
            f"--model.components {max(1, share - 1)}"
        )


def _room(recipe: PictureRecipe) -> int | None:
    """Most tokens of a caption that the model reads; None: it reads no captions."""
    reads = getattr(recipe.model, "condition", "text") == "text"
    return getattr(recipe.model, "caption_length", None) if reads else None


def cut_captions(recipe: PictureRecipe, corpus: PictureCorpus) -> str | None:
    """A note on training captions that are longer than data.caption_length; None: a sample has none.

    The corpus' own record of its longest caption is believed.
    """
    caption_length = recipe.data.caption_length
    most = corpus.manifest.get("caption_tokens", {}).get("most", caption_length)
    if _room(recipe) is None or most < caption_length:
        return None
    split = corpus.split("train", recipe.data.image_size)
    available = min(len(split), recipe.data.count or len(split), 1 << 30)
    step = -(-available // LOOKED_AT)
    texts = split.captions(np.arange(0, available, step, dtype=np.int64))
    lengths = np.array([len(tokens) + 1 for tokens in corpus.tokenizer.encode_batch(texts, 1)])
    share = float((lengths > caption_length).mean()) if len(lengths) else 0.0
    if not share:
        return None
    longest = int(lengths.max())
    return (
        f"{100 * share:.1f} % of the captions have more than data.caption_length {caption_length} "
        f"tokens, their EOS token included, and are cut: --data.caption-length {longest} "
        f"--model.caption-length {longest} has room for all"
    )
