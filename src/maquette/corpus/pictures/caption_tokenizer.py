"""The captions' tokenizer of an imported CLIP: its own `tokenizer.json` with its special tokens.

transformers puts a caption between the tokens that the file's post-processor names, and takes the name
of a special token inside a caption for that token, unless tokenizer_config.json says
`split_special_tokens`. A run that was imported keeps both files; one that was trained here has no
tokenizer_config.json, and its captions are text alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maquette.base.errors import UserError
from maquette.base.files import read_json
from maquette.corpus.foreign_tokenizer import Foreign
from maquette.corpus.special_tokens import SpecialTokens
from maquette.corpus.text.store import TOKENIZER
from maquette.corpus.tokenizer import Tokenizer, load_tokenizer

TOKENIZER_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True)
class Added:
    """The tokens that a post-processor puts before a caption and behind it."""

    before: tuple[int, ...]
    behind: tuple[int, ...]


class CaptionTokenizer(Foreign):
    """A `tokenizer.json` that ends a caption by the token its post-processor adds.

    split: whether the names of special tokens in a caption are text.
    """

    def __init__(self, content: str, split: bool = False) -> None:
        super().__init__(content, SpecialTokens())
        self._tokenizer.encode_special_tokens = self.split = split
        self.added = Added(*self.put_around())
        self.special = SpecialTokens(eos_token_ids=self.added.behind[:1])

    def name_of(self, token: int) -> str:
        """The token's text in `tokenizer.json`."""
        return str(self._tokenizer.id_to_token(token))

    def number_of(self, name: str) -> int | None:
        """The token id of a name; None: the vocabulary lacks it."""
        token_id: int | None = self._tokenizer.token_to_id(name)
        return token_id


def open_caption_tokenizer(path: Path, settings: dict[str, Any]) -> CaptionTokenizer:
    """Read a `tokenizer.json` with the settings of its tokenizer_config.json. Raises UserError."""
    try:
        split = bool(settings.get("split_special_tokens", False))
        return CaptionTokenizer(path.read_text(encoding="utf-8"), split)
    except Exception as error:  # the Rust library raises a bare Exception
        raise UserError(f"{path} is not a tokenizer that can be read: {error}") from error


def load_caption_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a run's captions, whether it was trained here or imported."""
    if not (folder / TOKENIZER_CONFIG).exists():
        return load_tokenizer(folder / TOKENIZER)
    return open_caption_tokenizer(folder / TOKENIZER, read_json(folder / TOKENIZER_CONFIG))
