"""Black-box tuning: a prompt of vectors that is found by the model's answers alone (Sun et al. 2022).

    p = A z + p0        z: `size` numbers that CMA-ES searches; A: random and fixed; p0: tokens drawn

A prompt of n vectors of the model's width has too many numbers for an evolution strategy, but its useful
changes are few: they are searched in a subspace of `size` dimensions (Aghajanyan et al. 2021). A is normal,
with the standard deviation of the word embeddings over the root of `size` (Sun et al. 2022, "BBTv2",
section 3.2), so that a change is as large as an embedding; p0 is what prompt tuning begins with, embeddings
of tokens that the seed draws. A call is one prompt scored on all examples; the prompts of a population are
rows of one batch, each with keys and values of its own before them. Left out: prompts of every layer (BBTv2).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maquette.adaptation.adapters.adapter import attach, detach
from maquette.adaptation.adapters.config import PromptConfig
from maquette.adaptation.adapters.prefix import drawn_rows
from maquette.adaptation.adapters.prompt import TextPrompts
from maquette.adaptation.search import Array
from maquette.base.errors import WrongUse
from maquette.models.base import LanguageModel
from maquette.nn.attention import Prefix

LossName = Literal["cross-entropy", "hinge"]
MARGIN = 2.0  # of the hinge loss, Sun et al. 2022
POSITIONS = 1 << 14  # tokens and prompt vectors of a batch
SCORES = 1 << 24  # scores of tokens of the vocabulary that are held at a time


@dataclass(frozen=True)
class Question:
    """A prompt and its answers, as tokens. right: place of the right answer, which may be the only one."""

    context: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    right: int


@dataclass(frozen=True)
class Outcome:
    """What a prompt makes of questions."""

    loss: float
    """mean loss of a question, in nats"""
    right: float | None
    """share of the questions whose right answer is the likeliest; None: they have no choices"""

    @property
    def rank(self) -> tuple[float, float]:
        """Order among prompts, the least the best: more right answers, then less loss."""
        return (-1.0 if self.right is None else -self.right, self.loss)


def outcomes(found: Tensor, right: Tensor, loss: LossName) -> list[Outcome]:
    """The outcome of every prompt of log-likelihoods (prompts, questions, choices); right: (questions,).

    Cross-entropy or hinge over the choices; of a single answer its negative log-likelihood.
    """
    wanted = found.gather(2, right.expand(len(found), -1)[:, :, None])  # (prompts, questions, 1)
    if found.shape[2] == 1:
        losses = -wanted[:, :, 0]
    elif loss == "hinge":
        losses = F.relu(MARGIN + found - wanted).sum(2) - MARGIN  # less what the right one counts
    else:
        losses = found.logsumexp(2) - wanted[:, :, 0]
    shares = (found.argmax(2) == right).double().mean(1).tolist()
    chosen = found.shape[2] > 1
    return [
        Outcome(cost, share if chosen else None)
        for cost, share in zip(losses.mean(1).tolist(), shares, strict=True)
    ]


class Projection:
    """Vectors of a prompt, of the numbers that are searched; see the file's docstring.

    size: numbers that are searched; None: every number of the prompt, without a projection. alpha: factor
    of the changes.
    """

    def __init__(
        self,
        model: LanguageModel,
        length: int,
        size: int | None,
        seed: int,
        alpha: float = 1.0,
    ) -> None:
        table = model.embedding.weight.detach().float() * model.scaling.input_multiplier
        self.start = drawn_rows(model, length, seed).float().cpu()  # (length, width)
        self._scale = alpha * float(table.std())
        self._matrix: Tensor | None = None
        self.size = self.start.numel() if size is None else size
        if size is not None:
            generator = torch.Generator().manual_seed(seed)
            drawn = torch.randn(self.start.numel(), size, generator=generator, dtype=torch.float64)
            self._matrix = drawn * (self._scale / size**0.5)  # Sun et al. 2022, BBTv2, eq. 6

    def __call__(self, z: Array) -> Tensor:
        """Prompts (candidates, length, width) of the numbers (candidates, size)."""
        numbers = torch.from_numpy(np.asarray(z, np.float64))
        change = numbers * self._scale if self._matrix is None else numbers @ self._matrix.T
        return self.start + change.view(-1, *self.start.shape).float()


class Candidates(TextPrompts):
    """The prompts of a population, each before its own rows of a batch."""

    rows = 1
    """number of rows of each prompt"""

    def prefixes(self, model: LanguageModel) -> list[Prefix]:
        """Keys and values of each prompt, computed once."""
        return [
            Prefix(p.keys.repeat_interleave(self.rows, 0), p.values.repeat_interleave(self.rows, 0))
            for p in model.prefixes(self.vectors)
        ]


class Scorer:
    """Scores prompts on questions.

    Inputs that differ in what is asked of them alone are one row: choices of one token cost no more than
    one of them. A question longer than the context loses its first tokens.
    """

    def __init__(
        self, model: LanguageModel, questions: Sequence[Question], loss: LossName = "cross-entropy"
    ) -> None:
        self._model, self._loss, self._questions = model, loss, questions
        most = max(len(question.answers) for question in questions)
        if loss == "hinge" and most < 2:
            raise WrongUse("a hinge loss is of choices, and the examples have none: leave it out")
        rows: dict[tuple[int, ...], int] = {}
        asked: list[tuple[int, int, int, int]] = []  # row, position, target, answer
        self._places = torch.full((len(questions), most), -1)
        count = 0
        for number, question in enumerate(questions):
            for place, answer in enumerate(question.answers):
                full = (question.context + answer)[-(model.config.context + 1) :]
                row = rows.setdefault(full[:-1], len(rows))
                first = len(full) - len(answer) - 1
                asked += [(row, i, full[i + 1], count) for i in range(max(0, first), len(full) - 1)]
                self._places[number, place] = count
                count += 1
        longest = max(map(len, rows))
        self._rows = torch.zeros(len(rows), longest, dtype=torch.long)
        for tokens, row in rows.items():
            self._rows[row, : len(tokens)] = torch.tensor(tokens)
        self._asked = torch.tensor(sorted(asked))  # (asked, 4), by row
        self._answers = count
        self._right = torch.tensor([question.right for question in questions])

    @torch.inference_mode()
    def log_likelihoods(self, prompts: Tensor | None) -> Tensor:
        """Log-likelihood of every answer after every prompt, (prompts, questions, choices); -inf pads.

        prompts: (prompts, length, width); None: one row of questions without a prompt.
        """
        model = self._model.eval()
        if prompts is None:
            return self._filled(self._sums(1, self._at_a_time(0)))
        length = prompts.shape[1]
        rows = self._at_a_time(length)
        group = max(1, POSITIONS // (rows * (self._rows.shape[1] + length)))
        adapter = Candidates(PromptConfig(length=length), model)
        attach(model, "candidates", adapter)
        try:
            done = []
            for some in prompts.to(model.device).split(group):
                adapter.vectors = torch.nn.Parameter(some, requires_grad=False)
                done.append(self._sums(len(some), rows, adapter))
        finally:
            detach(model, "candidates")
        return self._filled(torch.cat(done))

    def outcomes(self, prompts: Tensor | None) -> list[Outcome]:
        """The outcome of every prompt; see `log_likelihoods`."""
        return outcomes(self.log_likelihoods(prompts), self._right, self._loss)

    def _at_a_time(self, length: int) -> int:
        """Rows of a batch, each after a prompt of that length."""
        return min(len(self._rows), max(1, POSITIONS // (self._rows.shape[1] + length)))

    def _sums(self, prompts: int, rows: int, adapter: Candidates | None = None) -> Tensor:
        """Sums (prompts, answers) of what all rows say after every prompt; so many rows at a time."""
        sums = torch.zeros(prompts, self._answers, dtype=torch.float64)
        for first in range(0, len(self._rows), rows):
            part = self._rows[first : first + rows]
            here = (self._asked[:, 0] >= first) & (self._asked[:, 0] < first + rows)
            if adapter is not None:
                adapter.rows = len(part)
            self._add(sums, part, self._asked[here] - torch.tensor([first, 0, 0, 0]))
        return sums

    def _add(self, sums: Tensor, rows: Tensor, asked: Tensor) -> None:
        """Add to sums (prompts, answers) what these rows say, repeated for every prompt."""
        device, prompts = self._model.device, len(sums)
        hidden = self._model.hidden(rows.repeat(prompts, 1).to(device))
        hidden = hidden.view(prompts, *rows.shape, -1)
        for part in asked.split(max(1, SCORES // (prompts * self._model.config.vocabulary))):
            row, position, target, answer = part.T
            chosen = hidden[:, row, position]  # (prompts, asked, width)
            scores = self._model.logits(chosen).log_softmax(-1)
            scores = scores.gather(2, target.to(device).expand(prompts, -1)[:, :, None])[:, :, 0]
            sums.index_add_(1, answer, scores.double().cpu())

    def _filled(self, sums: Tensor) -> Tensor:
        found = sums[:, self._places.clamp(min=0)]
        return found.masked_fill(self._places < 0, -torch.inf)
