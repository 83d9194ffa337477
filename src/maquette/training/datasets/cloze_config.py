"""The recipe's fields of cloze texts: contexts that a word of a label follows (PET).

data: {kind: cloze, corpus: corpus/reviews, sequence: 64, alpha: 0.0001}
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from maquette.base.errors import WrongUse, plain, within
from maquette.corpus.progress import Progress, silent
from maquette.training.datasets.config import ANY
from maquette.training.datasets.text_config import TokenData

if TYPE_CHECKING:
    from maquette.corpus.examples.cloze import ClozeCorpus


@dataclass(frozen=True, kw_only=True)
class ClozeData(TokenData):
    """A corpus of cloze texts as the data of a recipe.

    Models learn which label's word follows: softmax over the words of the labels alone (Schick and Schütze
    2021, section 3.1), beside the language-model loss on contexts without labels (section 3.2).
    """

    dataset: ClassVar[Any] = "maquette.training.datasets.cloze.ClozeDataset"
    learner: ClassVar[str] = "cloze"

    kind: Literal["cloze"] = "cloze"
    """kind of data"""
    corpus: str = ""
    """corpus folder, built by maquette adapt pet"""
    alpha: float = 0.0001
    """weight of the language-model loss on unlabelled contexts, with 1 - alpha for that of the labels"""
    temperature: float = 1.0
    """temperature of the softmax over the labels' words; 2 where soft labels are distilled"""

    def __post_init__(self) -> None:
        within(self, 0, 1, "alpha")
        within(self, 0, ANY, "temperature")
        if self.temperature == 0:
            raise WrongUse("temperature is 0: use 1, or 2 for soft labels")

    def check(self, recipe: Any) -> None:
        """Raise WrongUse where a sequence does not fit the model."""
        super().check(recipe)
        if self.alpha == 1:
            raise WrongUse(
                f"alpha is {plain(self.alpha)}: no label would be learned, use such as 0.0001"
            )

    def open_corpus(self, progress: Progress = silent) -> "ClozeCorpus":
        from maquette.corpus.examples.cloze import ClozeCorpus

        if not self.corpus:
            raise WrongUse("data.corpus is empty: name a folder that maquette adapt pet has built")
        return ClozeCorpus(self.corpus)
