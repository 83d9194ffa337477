"""The recipe's fields of examples: prompts with answers, of which the loss counts the answers.

data: {kind: examples, corpus: corpus/questions, sequence: 256}
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from maquette.base.errors import WrongUse
from maquette.corpus.progress import Progress, silent
from maquette.training.datasets.text_config import TokenData

if TYPE_CHECKING:
    from maquette.corpus.examples.store import ExamplesCorpus


@dataclass(frozen=True, kw_only=True)
class AnsweredData(TokenData):
    """A corpus of examples as the data of a recipe, in whatever way it is learned from."""

    corpus: str = ""
    """corpus folder, built by maquette corpus examples"""

    def open_corpus(self, progress: Progress = silent) -> "ExamplesCorpus":
        from maquette.corpus.examples.store import ExamplesCorpus

        if not self.corpus:
            raise WrongUse(
                "data.corpus is empty: name a folder that maquette corpus examples has built"
            )
        return ExamplesCorpus(self.corpus)


@dataclass(frozen=True, kw_only=True)
class ExamplesData(AnsweredData):
    """A corpus of examples whose answers are learned.

    Whole examples are packed into sequences; none sees another, and the loss counts answers alone.
    """

    dataset: ClassVar[Any] = "maquette.training.datasets.examples.ExamplesDataset"

    kind: Literal["examples"] = "examples"
    """kind of data"""
