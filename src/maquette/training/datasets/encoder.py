"""A frozen CLIP whose embeddings come with every picture, and how captions are read.

An encoder reads captions as it was trained to, by its own tokenizer and in its own number of tokens,
whatever the corpus' are. Captions reach any model renumbered so that EOS is 0, which also pads
them on the right.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maquette.base.errors import UserError, WrongUse
from maquette.corpus.pictures.caption_tokenizer import load_caption_tokenizer
from maquette.corpus.tokenizer import Tokenizer
from maquette.models.base import Model, PictureBatch
from maquette.models.picture_config import EOS_TOKEN_ID
from maquette.models.store import WEIGHTS, load_config, load_model
from maquette.training.datasets.picture_config import PictureData, picture_recipe
from maquette.training.run import RECIPE, RunDirectory


@dataclass(frozen=True)
class CaptionReader:
    """The caption reader of a CLIP run. caption_length: most tokens of a caption, the EOS token included."""

    tokenizer: Tokenizer
    caption_length: int

    def token_ids(self, captions: list[str]) -> Tensor:
        """Token ids (n, caption_length) int64."""
        return caption_tokens(self.tokenizer, captions, self.caption_length)


@dataclass(frozen=True)
class Encoder:
    """A CLIP run whose model is frozen."""

    model: Any
    reader: CaptionReader

    @property
    def tokenizer(self) -> Tokenizer:
        return self.reader.tokenizer

    @property
    def caption_length(self) -> int:
        return self.reader.caption_length

    def token_ids(self, captions: list[str]) -> Tensor:
        """Token ids (n, caption_length) int64 on the model's device."""
        device = next(self.model.parameters()).device
        return self.reader.token_ids(captions).to(device)

    def to(self, device: torch.device) -> "Encoder":
        """Move the model to a device; returns self."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def __call__(self, batch: PictureBatch) -> PictureBatch:
        """Add the embeddings of pictures and captions to a batch."""
        assert batch.encoder_captions is not None, "the batch was read without the encoder's reader"
        return replace(
            batch,
            embedding=self.model.embed_pictures(batch.pictures).float(),
            text_embedding=self.model.embed_captions(batch.encoder_captions).float(),
        )


def caption_reader(folder: Path) -> CaptionReader:
    """The caption reader of a CLIP run. Raises WrongUse for a run of another kind."""
    _config(folder)
    return CaptionReader(load_caption_tokenizer(folder), caption_length_of(folder))


def load_encoder(run: str) -> Encoder:
    """The frozen CLIP of a finished run. Raises WrongUse for a run of another kind."""
    folder = Path(run).expanduser()
    reader = caption_reader(folder)
    model: Model = load_model(folder)
    return Encoder(model.requires_grad_(False), reader)


def encoder_reader(data: PictureData) -> CaptionReader | None:
    """The caption reader of the encoder that a recipe's data names; None: it names none."""
    if not data.encoder:
        return None
    check_encoder(data)
    return caption_reader(Path(data.encoder).expanduser())


def caption_length_of(folder: Path) -> int:
    """Most tokens of a caption that a picture run reads, the EOS token included."""
    room = int(getattr(load_config(folder), "caption_length", 0))
    if not (folder / RECIPE).exists():  # what was imported has none
        return room
    caption_length = picture_recipe(RunDirectory(folder).recipe()).data.caption_length
    return min(room, caption_length) if room else caption_length


def encoder_of(data: PictureData) -> Encoder | None:
    """The encoder that a recipe's data names; None: it names none. See `check_encoder`."""
    if not data.encoder:
        return None
    check_encoder(data)
    return load_encoder(data.encoder)


def check_encoder(data: PictureData) -> None:
    """Raise WrongUse where the encoder reads pictures of another size; its weights are not read."""
    if not data.encoder:
        return
    folder = Path(data.encoder).expanduser()
    image_size = _config(folder).image_size
    if image_size != data.image_size:
        raise WrongUse(
            f"data.encoder {folder} sees pictures of {image_size} pixels, data.image_size is "
            f"{data.image_size}: use --data.image-size {image_size} --model.image-size {image_size}, or a "
            f"CLIP trained at {data.image_size}"
        )
    if not (folder / WEIGHTS).exists():
        raise UserError(
            f"data.encoder {folder} is not trained to its end: maquette train --run {folder} --resume"
        )


def _config(folder: Path) -> Any:
    config = load_config(folder)
    if config.kind != "clip":
        raise WrongUse(f"{folder} embeds no pictures: name a CLIP run as data.encoder")
    return config


def cut_notes(tokenizer: Tokenizer, captions: Sequence[str], caption_length: int) -> list[str]:
    """A note for each caption that is cut to `caption_length` tokens, the EOS token included."""
    notes = []
    for text in dict.fromkeys(captions):
        tokens = tokenizer.encode(text)
        if len(tokens) >= caption_length:
            read = tokenizer.decode(tokens[: caption_length - 1])
            notes.append(
                f"a prompt of {len(tokens) + 1} tokens, its EOS token included, is cut to the "
                f"{caption_length} that are read: ... {read[-40:]!r}"
            )
    return notes


def caption_tokens(tokenizer: Tokenizer, captions: list[str], caption_length: int) -> Tensor:
    """Token ids (n, caption_length) int64, renumbered so that EOS is 0; longer captions are cut."""
    eos_token_id = tokenizer.eos_token_id
    last = tokenizer.vocabulary if eos_token_id is None else eos_token_id
    out = torch.full((len(captions), caption_length), EOS_TOKEN_ID, dtype=torch.int64)
    for row, text in zip(out, captions, strict=True):
        tokens = torch.tensor(tokenizer.encode(text)[: caption_length - 1], dtype=torch.int64)
        renumbered = tokens + (tokens < last).long()
        renumbered[tokens == last] = EOS_TOKEN_ID  # an EOS token in the caption
        row[: len(tokens)] = renumbered
    return out
