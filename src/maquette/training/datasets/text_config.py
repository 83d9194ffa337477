"""The recipe's fields of text: sequences, evaluation and samples."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from maquette.base.errors import WrongUse, plain, within
from maquette.corpus.progress import Progress, silent
from maquette.training.datasets.config import ANY, Data, Watch

if TYPE_CHECKING:
    from maquette.corpus.text.store import Corpus


@dataclass(frozen=True, kw_only=True)
class TextWatch(Watch):
    """Evaluation and samples of a language model during training."""

    tokens: int = 32768
    """number of held-out tokens scored, the same every time"""
    prompt: str = ""
    """prompt that samples continue; empty: the start of a document, or a held-out prompt of examples"""
    sample_tokens: int = 64
    """tokens of a sample; 0: no samples"""

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, 1, ANY, "tokens")
        within(self, 0, ANY, "sample_tokens")


@dataclass(frozen=True, kw_only=True)
class TokenData(Data):
    """Data that is read in sequences of tokens."""

    modality: ClassVar[str] = "text"
    unit: ClassVar[str] = "tokens"
    watch: ClassVar[type[Watch]] = TextWatch

    sequence: int = 256
    """tokens per training sequence"""

    def check(self, recipe: Any) -> None:
        """Raise WrongUse where a sequence does not fit the model."""
        if self.sequence < 1 or self.sequence > recipe.model.context:
            raise WrongUse(
                f"data.sequence {plain(self.sequence)} does not fit model.context "
                f"{recipe.model.context}: use 1 to {recipe.model.context}, or a larger context"
            )
        recipe.model.check_sequence(self.sequence)

    def units(self, samples: int) -> int:
        return samples * self.sequence

    def flops_per_unit(self, model: Any) -> float:
        return float(model.flops_per_token(self.sequence))


@dataclass(frozen=True, kw_only=True)
class TextData(TokenData):
    """A corpus of text as the data of a recipe."""

    dataset: ClassVar[Any] = "maquette.training.datasets.text.TextDataset"

    kind: Literal["text"] = "text"
    """kind of data"""
    corpus: str = "default"
    """corpus folder, or "default" or "tiny": built from the text on this machine"""
    document_mask: bool = False
    """whether attention stops at document boundaries, and positions restart there"""
    replay: float = 0.0
    """share of the training samples that are of the corpus of the run that `start` names, against
    forgetting; 0: none"""

    def check(self, recipe: Any) -> None:
        """Raise WrongUse where a sequence does not fit the model, or where replay has nothing to replay."""
        super().check(recipe)
        if not 0 <= self.replay < 1:
            raise WrongUse(f"data.replay is {plain(self.replay)}: use a share from 0 to below 1")
        if self.replay and not recipe.start:
            raise WrongUse(
                f"data.replay is {plain(self.replay)}, and start names no run whose text is replayed: "
                "name it with --start, or use 0"
            )

    def open_corpus(self, progress: Progress = silent) -> "Corpus":
        from maquette.corpus.text.named import open_corpus

        return open_corpus(self.corpus, progress)
