"""Nouns of the server: a run that is served, and what it is once its model is in memory.

How a folder becomes one of them is the workshop's business (`workshop/serve.py`); the server knows the
nouns alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from maquette.corpus.examples.template import ConversationTemplate
from maquette.corpus.tokenizer import Tokenizer
from maquette.models.base import LanguageModel

Lookup = Callable[[str], dict[str, Any]]
"""what is known of a text, as plain values"""


@dataclass(frozen=True)
class TextModel:
    """A language model in memory."""

    model: LanguageModel
    tokenizer: Tokenizer
    template: ConversationTemplate
    """template of conversations"""
    learnt: bool
    """whether the run has learnt to answer in that template"""
    trace: Lookup
    """spans of a text that stand in the training text. Raises UserError where that cannot be said."""
    portrait: Lookup
    """membership of a text in the training text by its portrait. Raises UserError likewise."""
    adapters: Mapping[str, float] = field(default_factory=dict)
    """weights of the attached adapters, where a request names none"""
    draft: LanguageModel | None = None
    """smaller model whose tokens this one checks"""


@dataclass(frozen=True, kw_only=True)
class PictureOrder:
    """Pictures that are asked for; the run says what goes together."""

    prompt: str = ""
    count: int = 1
    picture: bytes | None = None
    """file of a picture to change"""
    mask: bytes | None = None
    """file of a mask"""
    outpaint: Mapping[str, int] = field(default_factory=dict)
    """pixels to add by side"""
    vary: bytes | None = None
    """file of a picture to vary"""
    toward: bytes | None = None
    """file of the picture at the other end of an interpolation"""
    prior: Path | None = None
    """run that makes the embeddings that the run reads"""
    upsample: Path | None = None
    """run that enlarges what is made"""
    solver: str | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class PicturesMade:
    """Pictures as files."""

    png: list[bytes]
    width: int
    height: int
    evaluations: int
    """number of evaluations of the network per picture"""
    notes: list[str]
    """notes: what was cut off or resized, what the run has never seen"""


class PictureMaker(Protocol):
    """A picture model in memory."""

    def make(self, order: PictureOrder, stopped: Callable[[], bool]) -> PicturesMade:
        """Carry out an order; stopped: asked at every evaluation whether to leave off, by `Stopped`."""
        ...


class Embedder(Protocol):
    """A model in memory that embeds texts and pictures in one space."""

    def texts(self, texts: Sequence[str]) -> list[list[float]]:
        """Embeddings of captions. Raises UserError for one that is too long."""
        ...

    def picture(self, data: bytes) -> list[float]:
        """Embedding of a picture file. Raises UserError for what is none."""
        ...


class Stopped(Exception):
    """Work was left off: nobody waits for it."""


Opened = TextModel | PictureMaker | Embedder


@dataclass(frozen=True)
class Run:
    """A run that is served."""

    name: str
    folder: Path
    kind: str
    """kind of model: "text", "pictures", "clip", or another that makes nothing by itself"""
    about: Mapping[str, Any]
    """plain values that a list of models shows of it"""
    gates: tuple[Path, ...]
    """folders that the run's bytes are from, each of which may be gated"""
    weights: tuple[Path, ...]
    """files whose change makes it another run"""
    memory: int
    """bytes of the model in memory, as far as its files say"""
    load: Callable[[], Opened]
    """read it into memory"""

    @property
    def created(self) -> float:
        """Time at which its weights were written, in seconds since 1970; 0 where they are gone."""
        try:
            return self.weights[0].stat().st_mtime
        except OSError:
            return 0.0

    @property
    def version(self) -> tuple[tuple[int, int, int], ...]:
        """What changes with the files of the run. Raises OSError where they are gone."""
        found = (path.stat() for path in self.weights)
        return tuple((s.st_mtime_ns, s.st_size, s.st_ino) for s in found)
