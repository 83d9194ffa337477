"""Batches of what is not learned as the next token: pairs of sequences, permuted orders, preferences."""

from dataclasses import dataclass

from torch import Tensor

from maquette.models.base import Batch, TokenBatch


@dataclass
class PairBatch(Batch):
    """One micro-batch for an encoder and a decoder.

    source: (batch, source time) int64, what the encoder reads. source_mask: (batch, source time) bool,
    False where it is padding. tokens, targets: (batch, time) int64, what the decoder reads and predicts;
    a negative target is not counted.
    """

    source: Tensor
    source_mask: Tensor
    tokens: Tensor
    targets: Tensor


@dataclass
class PermutedBatch(Batch):
    """One micro-batch that is predicted in an order of its own (Yang et al. 2019, XLNet).

    tokens: (batch, time) int64. targets: (batch, time), the token of the position itself; a negative one is
    not counted. order: (batch, time) int64, the place of each position in the factorisation order.
    """

    tokens: Tensor
    targets: Tensor
    order: Tensor

    @property
    def query_mask(self) -> Tensor:
        """(batch, queries, keys) bool: the query stream sees what stands before it in the order."""
        return self.order[:, None, :] < self.order[:, :, None]

    @property
    def content_mask(self) -> Tensor:
        """(batch, queries, keys) bool: the content stream sees itself, too."""
        return self.order[:, None, :] <= self.order[:, :, None]


@dataclass
class PreferenceBatch(Batch):
    """One micro-batch of pairs of answers, a better and a worse one to a prompt, packed.

    tokens, targets, document_ids, positions: (batch, 2, time) int64 as in `TokenBatch`; of a sample the first
    row has the chosen answers with their prompts, the second the rejected ones: document k of both rows is
    pair k. reference: (batch, 2, pairs) fp32, log-probabilities of these answers under the reference model.
    counted: (batch, pairs) bool, False where a sample has fewer pairs.
    """

    tokens: Tensor
    targets: Tensor
    document_ids: Tensor
    positions: Tensor
    reference: Tensor
    counted: Tensor

    @property
    def answers(self) -> TokenBatch:
        """All rows, (2 batch, time): chosen and rejected by turns."""
        rows = (self.tokens, self.targets, self.document_ids, self.positions)
        return TokenBatch(*(t.flatten(0, 1) for t in rows))


@dataclass
class QuestionBatch(Batch):
    """One micro-batch of prompts that a model answers itself.

    prompts: (batch, time) int64, padded on the right. lengths: (batch,), tokens of each prompt. numbers:
    (batch,), which example of the training split each one is. samples: (batch,), the place of each in the
    order of all training samples, from which its answers' random numbers come.
    """

    prompts: Tensor
    lengths: Tensor
    numbers: Tensor
    samples: Tensor
