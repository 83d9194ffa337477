"""Special tokens (BOS, EOS, padding), read from the model's own files.

In their order of trust: the post-processor of `tokenizer.json` (the tokens put around a text),
`tokenizer_config.json` and the older `special_tokens_map.json` (names, `add_bos_token`),
`generation_config.json` (`eos_token_id` may be a list), `config.json`. Every EOS token that any of them names
counts; the first is put between documents. Left out: `add_eos_token` and what a post-processor
puts behind a text, for a prompt that was ended would be continued by another document.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maquette.base.errors import UserError
from maquette.base.files import read_json, write_json

SPECIAL = "special_tokens.json"
FORMAT = 2
USUAL_ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "[SEP]")
"""EOS tokens to look for in a tokenizer that comes without any other file"""
PROBES = ("a", "0", " ", ".")


@dataclass(frozen=True)
class SpecialTokens:
    """The token ids of a tokenizer's special tokens.

    eos_token_ids: every token that ends a text, first the token between documents. prefix: tokens before
    every prompt and scored text. bos_token_id, pad_token_id: None where the tokenizer has none.
    settings: the `tokenizer_config.json` that came with the tokenizer, for export.
    """

    eos_token_ids: tuple[int, ...] = ()
    prefix: tuple[int, ...] = ()
    bos_token_id: int | None = None
    pad_token_id: int | None = None
    settings: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def eos_token_id(self) -> int | None:
        """The token id between documents."""
        return self.eos_token_ids[0] if self.eos_token_ids else None

    @property
    def start(self) -> tuple[int, ...]:
        """The tokens before a text's first token: the prefix, else BOS, else EOS."""
        if self.prefix:
            return self.prefix
        token = self.eos_token_id if self.bos_token_id is None else self.bos_token_id
        return () if token is None else (token,)

    def save(self, folder: Path) -> None:
        """Write `special_tokens.json`."""
        write_json(
            folder / SPECIAL,
            {
                "format": FORMAT,
                "eos_token_ids": list(self.eos_token_ids),
                "prefix": list(self.prefix),
                "bos_token_id": self.bos_token_id,
                "pad_token_id": self.pad_token_id,
                "settings": self.settings,
            },
        )


def load_special_tokens(folder: Path) -> SpecialTokens | None:
    """Read `special_tokens.json` of a folder; None where it is missing."""
    path = folder / SPECIAL
    if not path.exists():
        return None
    content = read_json(path)
    try:
        if content["format"] != FORMAT:
            raise UserError(f"{path} has format {content['format']}, this Maquette reads {FORMAT}")
        return SpecialTokens(
            eos_token_ids=tuple(content["eos_token_ids"]),
            prefix=tuple(content["prefix"]),
            bos_token_id=content["bos_token_id"],
            pad_token_id=content["pad_token_id"],
            settings=dict(content["settings"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: restore it, or import the model again") from error


def read_special_tokens(
    folder: Path, tokenizer: Any, settings: dict[str, Any] | None = None
) -> SpecialTokens:
    """The special tokens of a Hugging Face folder, whose `tokenizers.Tokenizer` is `tokenizer`.

    settings: in place of what `tokenizer_config.json` says.
    """
    settings = read_settings(folder) if settings is None else settings
    generation, config = _read(folder, "generation_config.json"), _read(folder, "config.json")

    def named(key: str) -> int | None:
        name = token_name(settings.get(key))
        token = None if name is None else tokenizer.token_to_id(name)
        return None if token is None else int(token)

    def known(values: Iterable[Any]) -> list[int]:
        whole = [v for v in values if isinstance(v, int) and not isinstance(v, bool) and v >= 0]
        return [token for token in whole if tokenizer.id_to_token(token) is not None]

    def numbers(key: str) -> list[int]:
        return known([v for c in (generation, config) for v in _listed(c.get(key))])

    prefix, suffix = put_around(tokenizer)
    older = token_name(_read(folder, "special_tokens_map.json").get("eos_token"))
    older_end = None if older is None else tokenizer.token_to_id(older)
    ends = [*suffix[:1], *known([named("eos_token"), older_end]), *numbers("eos_token_id")]
    if not ends:
        ends = known(tokenizer.token_to_id(name) for name in USUAL_ENDS)[:1]
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    # A config's number is often the class's default, which another tokenizer uses for a letter.
    begins = [token for token in numbers("bos_token_id") if token in special]
    bos = next((t for t in (named("bos_token"), *begins, *prefix[:1]) if t is not None), None)
    pad = next((t for t in (named("pad_token"), *numbers("pad_token_id")) if t is not None), None)
    if not prefix and settings.get("add_bos_token") is True and bos is not None:
        prefix = (bos,)
    return SpecialTokens(tuple(dict.fromkeys(ends)), prefix, bos, pad, settings)


def read_settings(folder: Path) -> dict[str, Any]:
    """`tokenizer_config.json`, completed from `special_tokens_map.json` and the chat template."""
    older, newer = _read(folder, "special_tokens_map.json"), _read(folder, "tokenizer_config.json")
    settings = older | {
        key: value
        for key, value in newer.items()
        if value is not None or (key.endswith("_token") and key not in older)  # null: there is none
    }
    template = folder / "chat_template.jinja"
    if template.exists() and "chat_template" not in settings:
        try:
            settings["chat_template"] = template.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{template} is not text in UTF-8: restore it, or remove it") from error
    return settings


def token_name(value: Any) -> str | None:
    """The text of a token that a JSON file names by a string, or by an object with its flags."""
    name = value.get("content") if isinstance(value, dict) else value
    return name if isinstance(name, str) else None


def put_around(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens that a `tokenizers.Tokenizer` puts before a text, and behind it."""
    first = [name for name, i in tokenizer.get_vocab(with_added_tokens=False).items() if i < 8]
    for probe in (*PROBES, *first):
        encoding = tokenizer.encode(probe)
        inside = [i for i, text in enumerate(encoding.sequence_ids) if text is not None]
        if inside:
            return tuple(encoding.ids[: inside[0]]), tuple(encoding.ids[inside[-1] + 1 :])
    return tuple(tokenizer.encode("").ids), ()


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.exists():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is no JSON object: restore it, or remove it")
    return content
