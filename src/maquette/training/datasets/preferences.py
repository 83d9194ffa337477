"""Batches of preferences: pairs of answers packed into two rows, and what the reference says of them.

    row of chosen     | prompt chosen end | prompt chosen end | padding |
    row of rejected   | prompt rejected end | prompt rejected end | pad |

Pairs are packed as examples are, each by its longer answer, so that a sample is two rows of `sequence`
tokens. Counted are the tokens of the last answer, with its end. The reference is frozen: its
log-probabilities are computed once, in fp32, before the first step, and kept beside the corpus in a file
that is named by the hash of what they depend on.
"""

import functools
import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from maquette.adaptation.adapters.store import base_hash
from maquette.base.errors import UserError
from maquette.base.files import lock
from maquette.base.machine import pick_device
from maquette.corpus.examples.chat_template import template_of
from maquette.corpus.examples.example import Example
from maquette.corpus.examples.store import ExamplesCorpus
from maquette.corpus.examples.template import encode
from maquette.corpus.order import Permutation
from maquette.corpus.text.store import SPLITS
from maquette.models.base import LanguageModel
from maquette.models.batches import PreferenceBatch
from maquette.models.registry import ModelConfig
from maquette.models.store import load_tensors, save_tensors
from maquette.training.datasets.examples import RowsDataset, laid, pack
from maquette.training.datasets.preferences_config import PreferencesData
from maquette.training.datasets.text import check_tokens
from maquette.training.datasets.text_config import TextWatch
from maquette.training.initial_model import weights_file
from maquette.training.recipe import Recipe
from maquette.training.trained_model import open_model

PreferencesRecipe = Recipe[ModelConfig, PreferencesData, TextWatch]
"""recipe of a run on preferences"""
Encoded = tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]
"""tokens of a prompt and an answer, and which of them count"""
ROWS = 8  # samples that the reference reads at a time


class PreferencesDataset(RowsDataset):
    """The samples of a recipe on preferences. Raises UserError for a corpus without pairs."""

    def __init__(self, recipe: PreferencesRecipe, corpus: ExamplesCorpus) -> None:
        super().__init__(recipe, corpus)

    @functools.cached_property
    def rows(self) -> "PackedPairs":
        return self._packed(SPLITS[0], self._recipe.seed)

    @functools.cached_property
    def heldout_rows(self) -> "PackedPairs":
        return self._packed(SPLITS[1], 0)

    def check(self) -> list[str]:
        """Notes where pairs are cut or left out. Raises WrongUse for a model of another vocabulary."""
        check_tokens(self._recipe, self.corpus)
        assert len(self.heldout_rows)
        return self.rows.pairs.notes()

    def _packed(self, split: str, seed: int) -> "PackedPairs":
        pairs = Pairs(self.corpus, split, self._sequence)
        reference = reference_scores(Path(self._recipe.start), pairs, self._recipe.device)
        return PackedPairs(pairs, reference, seed)


class Pairs:
    """The pairs of a split, each answer with its prompt, cut to sequence + 1 tokens.

    Raises UserError where no pair has both answers begin within a sequence.
    """

    def __init__(self, corpus: ExamplesCorpus, split: str, sequence: int) -> None:
        self.corpus, self.split, self.sequence = corpus, split, sequence
        template = template_of(corpus.manifest["template"], corpus.tokenizer)
        stored = corpus.train if split == SPLITS[0] else corpus.heldout
        self.answers: list[tuple[Encoded, Encoded]] = []
        self.unpaired = self.equal = self.cut = self.left_out = 0
        for number, example in enumerate(corpus.examples(split)):
            if not example.rejected:
                self.unpaired += 1
                continue
            if example.rejected == example.answer:
                self.equal += 1
                continue
            worse = Example(example.prompt, example.rejected, history=example.history)
            tokens, counted = encode(worse, template, corpus.tokenizer)
            both = (
                stored.read(number, int(stored.lengths[number])),
                (tokens.astype(np.int64), counted.astype(np.bool_)),
            )
            chosen, rejected = (_last_answer(one, sequence + 1) for one in both)
            if not (chosen[1].any() and rejected[1].any()):
                self.left_out += 1
                continue
            self.cut += any(len(tokens) > sequence + 1 for tokens, _ in both)
            self.answers.append((chosen, rejected))
        if not self.answers:
            if self.left_out:
                raise UserError(
                    f"no pair has answers that begin within data.sequence {sequence}: use a longer one"
                )
            raise UserError(
                f"the {split} examples of {corpus.path} have no rejected answers: write records with "
                f"prompt, chosen and rejected, or name the field with --fields rejected=NAME"
            )

    def __len__(self) -> int:
        return len(self.answers)

    def notes(self) -> list[str]:
        """A line for each reason for which examples are cut or not learned from."""
        said = {
            "have no rejected answer: left out": self.unpaired,
            "have equal answers: left out": self.equal,
            f"have a prompt longer than data.sequence {self.sequence}: left out": self.left_out,
            f"are longer than data.sequence {self.sequence}: cut": self.cut,
        }
        total = len(self) + self.unpaired + self.equal + self.left_out
        return [f"{count:,} of {total:,} examples {what}" for what, count in said.items() if count]


class PackedPairs:
    """Pairs in samples of two rows, by number. reference: (pairs, 2), see `PreferenceBatch`."""

    def __init__(self, pairs: Pairs, reference: Tensor, seed: int) -> None:
        self.pairs, self._reference = pairs, reference
        lengths = [max(len(tokens) for tokens, _ in both) - 1 for both in pairs.answers]
        order = Permutation(len(pairs), seed)(np.arange(len(pairs)))
        self.numbers = pack(np.array(lengths), order, pairs.sequence)
        """numbers of the pairs of each sample"""

    def __len__(self) -> int:
        return len(self.numbers)

    def batch(self, rows: npt.NDArray[np.int64]) -> PreferenceBatch:
        """The samples of those numbers."""
        chosen = [self.numbers[row] for row in rows.tolist()]
        documents = [
            [self.pairs.answers[n][side] for n in numbers] for numbers in chosen for side in (0, 1)
        ]
        b = laid(documents, self.pairs.sequence, self.pairs.corpus.eos_token_id)
        assert b.document_ids is not None and b.positions is not None
        most = max(map(len, chosen))
        reference = torch.zeros(len(chosen), 2, most)
        counted = torch.zeros(len(chosen), most, dtype=torch.bool)
        for row, numbers in enumerate(chosen):
            reference[row, :, : len(numbers)] = self._reference[numbers].T
            counted[row, : len(numbers)] = True
        tokens, targets, document_ids, positions = (
            t.unflatten(0, (-1, 2)) for t in (b.tokens, b.targets, b.document_ids, b.positions)
        )
        return PreferenceBatch(tokens, targets, document_ids, positions, reference, counted)


def answer_log_likelihoods(model: LanguageModel, batch: PreferenceBatch) -> Tensor:
    """Log-probability of every answer given its prompt, (batch, 2, pairs), differentiable."""
    answers = batch.answers
    assert answers.document_ids is not None
    each = model.log_likelihoods(answers)  # (2 batch, time)
    pair = torch.arange(batch.counted.shape[1], device=each.device)
    own = answers.document_ids.unsqueeze(-1) == pair  # (2 batch, time, pairs); padding is of none
    # A product has one order of additions; those of a scatter differ between runs on a GPU.
    sums: Tensor = (each.unsqueeze(1) @ own.to(each)).squeeze(1)  # (2 batch, pairs)
    return sums.view(-1, 2, sums.shape[-1])


@torch.no_grad()
def pair_log_likelihoods(model: LanguageModel, pairs: Pairs) -> Tensor:
    """Log-probabilities of the answers of all pairs under a model, (pairs, 2) in fp32: chosen, rejected."""
    device = model.device
    packed = PackedPairs(pairs, torch.zeros(len(pairs), 2), seed=0)
    found = torch.zeros(len(pairs), 2)
    for first in range(0, len(packed), ROWS):
        rows = np.arange(first, min(first + ROWS, len(packed)))
        scores = answer_log_likelihoods(model, packed.batch(rows).to(device)).cpu()
        for row, sample in zip(rows.tolist(), scores, strict=True):
            numbers = packed.numbers[row]
            found[numbers] = sample[:, : len(numbers)].T
    return found


def reference_scores(run: Path, pairs: Pairs, device: str) -> Tensor:
    """What the model of `run` says of the pairs, computed or read; see `pair_log_likelihoods`.

    device: the device to compute on, as a recipe names it.
    """
    digest = base_hash(run, weights_file(run))
    identity = f"{digest}\n{pairs.corpus.hash}\n{pairs.split}\n{pairs.sequence}"
    name = hashlib.sha256(identity.encode()).hexdigest()[:16]
    path = pairs.corpus.path / f"reference-{name}.safetensors"
    with lock(path.with_name(f".{path.name}.lock")):
        if path.exists():
            return load_tensors(path)["log_probabilities"]
        model = open_model(run).to(pick_device(device)).eval()
        assert isinstance(model, LanguageModel)
        found = pair_log_likelihoods(model, pairs)
        save_tensors(path, {"log_probabilities": found})
        return found


def _last_answer(encoded: Encoded, most: int) -> Encoded:
    """The first `most` tokens, of which the last answer's count: those of its history are the prompt's."""
    tokens, counted = encoded
    prompt = np.flatnonzero(~counted)
    last = np.arange(len(tokens)) > (prompt[-1] if len(prompt) else -1)
    return tokens[:most], last[:most]
