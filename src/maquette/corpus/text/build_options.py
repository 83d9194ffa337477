"""Options of a text corpus: all that a build depends on, besides its documents and a given tokenizer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from maquette.base.errors import WrongUse
from maquette.corpus.tokenizer import BYTES, DIGITS


@dataclass(frozen=True)
class BuildOptions:
    """Tokenizer, held-out split, cleaning, deduplication, decontamination and artefacts of a corpus.

    The manifest keeps them under `options`. Raises WrongUse for a value that cannot be.
    """

    vocabulary: int = 8192
    """number of tokens of the byte-pair tokenizer to train (257: plain bytes); not used where a
    tokenizer is given"""
    digits: int = DIGITS
    """largest number of digits in one token, 1 (each digit by itself) to 9"""
    or_fewer: bool = False
    """whether a smaller vocabulary will do where the text does not support `vocabulary` tokens"""
    heldout: float = 0.02
    """fraction of the text held out for evaluation, between 0 and 1"""
    split: Literal["hash", "tail"] = "hash"
    """way to hold text out: "hash" takes whole documents by the hash of their text, "tail" the end of
    each document; a corpus whose documents are too few for "hash" takes "tail\""""
    clean: tuple[str, ...] = ()
    """names of the cleaning rules and groups of rules (`clean.py`) for components without their own"""
    near: float | None = None
    """Jaccard similarity with an earlier document, 0.5 to 1, from which a document is dropped; None:
    near-duplicates stay"""
    evaluation: tuple[str, ...] = ()
    """paths of evaluation sets whose 13-grams are cut out of the documents, made absolute"""
    evaluation_field: str | None = None
    """name of the field of evaluation records that holds the text; None: the usual names"""
    substrings: int | None = None
    """least length in bytes, at least 16, of a repeated stretch that is cut; None: repeats stay"""
    portrait: bool = False
    """whether a portrait of the training text is written (`maquette audit member`)"""
    locator: bool = False
    """whether a locator of long passages is written (`maquette audit trace`)"""
    terms: tuple[str, ...] = ()
    """names of terms that all sources are under (`corpus/terms.py`)"""

    def __post_init__(self) -> None:
        if not 0 < self.heldout < 1:
            raise WrongUse(
                f"heldout is {self.heldout}: use a fraction between 0 and 1, such as 0.02"
            )
        if self.near is not None and not 0.5 <= self.near <= 1:
            raise WrongUse(
                f"near is {self.near}: use a Jaccard similarity of 0.5 to 1, such as 0.8, or off"
            )
        if not BYTES < self.vocabulary < 1 << 31:
            raise WrongUse(
                f"vocabulary is {self.vocabulary}: use {BYTES + 1} (plain bytes) or more"
            )
        if self.substrings is not None and self.substrings < 16:
            raise WrongUse(f"substrings is {self.substrings}: use 16 bytes or more, such as 100")
        if not 1 <= self.digits <= 9:
            raise WrongUse(f"digits is {self.digits}: use 1 (each by itself) to 9")
        if self.clean:
            from maquette.corpus.text.clean import rules_named

            rules_named(self.clean)  # refuses an unknown one before anything is read
        # A worker elsewhere may stand in another folder.
        absolute = tuple(str(Path(path).expanduser().absolute()) for path in self.evaluation)
        object.__setattr__(self, "evaluation", absolute)
