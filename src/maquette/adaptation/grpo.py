"""Group relative policy optimisation (GRPO): learn from answers of one's own that can be checked.

    a step        a group of answers to each prompt, sampled at temperature 1
    reward        1 for the right result, else 0
    advantage     reward - mean of the group's rewards
    loss          -sum of advantage x log p(token) / number of tokens + kl x estimate of KL(p || start)

Shao et al. 2024, equation 3, in the form to which practice has simplified it. Every step's answers are the
current model's own, so that the ratio of new to old probabilities is 1 and clipping has nothing to do (their
equation 3 with one update a batch): REINFORCE with a baseline, as nanochat has it. The advantage is not
divided by the group's standard deviation, which weighs easy and hard questions more (Liu et al. 2025, section
3.1). Sums are over the tokens of all answers alike, not first over each answer's (Yu et al. 2025, DAPO,
equation 12). The tie to the start (their equation 4, k3 of Schulman 2020) is off unless `kl` says otherwise.
Left out: several updates a batch, a learned reward.

Answers come from torch's generators, seeded by (seed, place of the prompt in the data's order, number in the
group): a resumed run samples what it would have sampled, on any number of ranks.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from maquette.adaptation.adapters.adapter import adapters_of
from maquette.corpus.examples.chat_template import template_of
from maquette.corpus.examples.results import is_right
from maquette.corpus.examples.store import ExamplesCorpus
from maquette.corpus.text.store import SPLITS
from maquette.models.base import LanguageModel, Loss, TokenBatch
from maquette.models.batches import QuestionBatch
from maquette.serving.generate import sample_tokens
from maquette.serving.sampler import Sampling
from maquette.training.datasets.questions_config import QuestionsData
from maquette.training.decide import Decisions
from maquette.training.heldout import derived_seed
from maquette.training.learner import on_device
from maquette.training.loop import eager_mode
from maquette.training.recipe import Recipe
from maquette.training.single import Single
from maquette.training.trained_model import open_model


class GRPO(Single):
    """The learner of `questions`; see `learner.Learner` for the methods."""

    def __init__(
        self, recipe: Recipe, decisions: Decisions, device: torch.device, fresh: bool = True
    ) -> None:
        super().__init__(recipe, decisions, device, fresh)
        data = recipe.data
        assert isinstance(data, QuestionsData)
        self._data, self._seed = data, recipe.seed
        corpus = data.open_corpus()
        self._tokenizer, self._eos_token_id = corpus.tokenizer, corpus.eos_token_id
        self._results = Results(corpus, SPLITS[0], data.answer_after)
        self._start: LanguageModel | None = None
        if data.kl and not adapters_of(self.model):
            start = open_model(Path(recipe.start)).requires_grad_(False)
            assert isinstance(start, LanguageModel)
            self._start = on_device(start, recipe, decisions, device)

    def loss(self, batch: QuestionBatch) -> Loss:
        model, data = self.model, self._data
        assert isinstance(model, LanguageModel)
        prompts = [
            row[:length].tolist()
            for row, length in zip(batch.prompts, batch.lengths.tolist(), strict=True)
            for _ in range(data.group)
        ]
        seeds = [
            derived_seed(self._seed, sample, number)
            for sample in batch.samples.tolist()
            for number in range(data.group)
        ]
        sampling = Sampling(temperature=1.0, seeds=tuple(seeds))
        model.eval()
        with eager_mode():
            answers = sample_tokens(
                model, self._tokenizer, prompts, tokens=data.answer_tokens, sampling=sampling
            )
        model.train()
        rewards = self._rewards(answers, batch.numbers.tolist())  # (batch, group)
        rows = answer_batch(prompts, answers, data.sequence, self._eos_token_id)
        rows = rows.to(batch.prompts.device)
        log_p = model.log_likelihoods(rows)  # (batch x group, time)
        counted = rows.targets >= 0
        total = policy_loss(log_p, advantages(rewards).flatten().to(log_p))
        tokens, spread = counted.sum(), rewards.amax(1) > rewards.amin(1)
        recorded: dict[str, tuple[Tensor, Tensor | int]] = {
            "reward": (rewards.sum(), rewards.numel()),
            "groups_with_signal": (spread.sum(), len(rewards)),
            "answer_tokens": (tokens, rewards.numel()),
            "entropy": (-log_p.detach().sum(), tokens),
        }
        if data.kl:
            kl = kl_estimate(log_p, self._start_log_likelihoods(rows)).sum()
            total = total + data.kl * kl
            recorded["kl"] = (kl.detach(), tokens)
        return Loss(total, total.detach(), tokens, recorded)

    def _rewards(self, answers: Sequence[Sequence[int]], numbers: Sequence[int]) -> Tensor:
        """1 for every answer with the right result, else 0: (prompts, group)."""
        group = self._data.group
        rights = [
            self._results.right(numbers[row // group], answer) for row, answer in enumerate(answers)
        ]
        return torch.tensor(rights, dtype=torch.float32).view(-1, group)

    @torch.no_grad()
    def _start_log_likelihoods(self, rows: TokenBatch) -> Tensor:
        """What the run's start says of the answers: another model, or this one without its adapter."""
        if self._start is not None:
            return self._start.log_likelihoods(rows)
        assert isinstance(self.model, LanguageModel)
        adapters = adapters_of(self.model).values()
        weights = [adapter.weight for adapter in adapters]
        for adapter in adapters:
            adapter.weight = 0.0
        try:
            return self.model.log_likelihoods(rows)
        finally:
            for adapter, weight in zip(adapters, weights, strict=True):
                adapter.weight = weight


class Results:
    """The right answers to a split's examples. after: see `result_of`."""

    def __init__(self, corpus: ExamplesCorpus, split: str, after: str) -> None:
        template = template_of(corpus.manifest["template"], corpus.tokenizer)
        self._tokenizer, self._after = corpus.tokenizer, after
        learned = (
            template.turns(e.exchanges, corpus.tokenizer)[-1][1] for e in corpus.examples(split)
        )
        self._answers = [self._text(tokens) for tokens in learned]

    def right(self, number: int, answer: Sequence[int]) -> bool:
        """Whether the tokens of an answer to that example give its result."""
        return is_right(self._text(answer), self._answers[number], self._after)

    def _text(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True)


def advantages(rewards: Tensor) -> Tensor:
    """Rewards (prompts, group) less the mean of their group."""
    return rewards - rewards.mean(1, keepdim=True)


def policy_loss(log_p: Tensor, advantage: Tensor) -> Tensor:
    """The loss whose gradient is the policy gradient, summed over all tokens.

    log_p: (answers, time), 0 where no token counts. advantage: (answers,).
    """
    return -(advantage.unsqueeze(1) * log_p).sum()


def kl_estimate(log_p: Tensor, log_start: Tensor) -> Tensor:
    """Shao et al. 2024, equation 4: an estimate of KL(p || start) at tokens that p has sampled, 0 or more."""
    log_ratio = log_start - log_p
    return log_ratio.exp() - log_ratio - 1


def answer_batch(
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    sequence: int,
    eos_token_id: int,
) -> TokenBatch:
    """Rows of a prompt and its answer, (answers, sequence), padded on the right; the answer counts."""
    tokens = torch.full((len(prompts), sequence), eos_token_id)
    targets = torch.full((len(prompts), sequence), -1)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        whole = torch.tensor([*prompt, *answer])
        tokens[row, : len(whole) - 1] = whole[:-1]
        targets[row, len(prompt) - 1 : len(whole) - 1] = whole[len(prompt) :]
    return TokenBatch(tokens, targets)
