"""Too little text for the budget: what the next epoch is worth (Muennighoff et al. 2023).

A token seen again teaches less. D tokens of U_D unique ones count as

    D' = U_D + U_D R*_D (1 - exp(-R_D / R*_D)),  R_D = D / U_D - 1 repetitions      (their eq. 5)

and so do parameters beyond the U_N that those unique tokens call for (eq. 6). L = E + A / N'^alpha
+ B / D'^beta. R*_D = 15.39 and R*_N = 5.31 were fitted on 182 runs of 7 million to 9 billion
parameters and 1 to 500 epochs of C4, beside the constants of the law "muennighoff". With another
law's constants they are an assumption. U_N is that of the whole corpus also where less of it is
read, so that the law is the plain one wherever text is plentiful. Repetition never hurts in this
form; in the runs it did, at many epochs, and those were left out of the fit.
"""

import math
from dataclasses import dataclass

from maquette.base.errors import UserError, WrongUse
from maquette.scaling.laws import Law, ScalingLaw, least_on

R_D, R_N = 15.387756, 5.309743
MOST_EPOCHS = 500.0
"""most epochs of the runs that the constants were fitted on"""


@dataclass(frozen=True)
class Spent:
    """A budget spent on a corpus, which may repeat."""

    parameters: float
    tokens: float
    """number of training tokens, repeated ones included"""
    epochs: float
    effective_tokens: float
    """number of unique tokens worth as much"""
    loss: float
    """loss in nats per token"""
    next_epoch: float
    """value of the next epoch: tokens it adds to the effective ones, over the unique tokens, 0 to 1"""


@dataclass(frozen=True)
class Repeats:
    """A law for a corpus of `unique` tokens."""

    law: Law
    unique: float

    @property
    def needed(self) -> float:
        """U_N: number of parameters whose optimum is one epoch."""
        return self.law.best_for_tokens(self.unique)

    def effective_tokens(self, tokens: float) -> float:
        """Effective tokens D' (eq. 5)."""
        return _decayed(tokens, self.unique, R_D)

    def effective_parameters(self, parameters: float) -> float:
        """Effective parameters N' (eq. 6)."""
        return _decayed(parameters, self.needed, R_N)

    def loss(self, parameters: float, tokens: float) -> float:
        """Loss in nats per token."""
        return self.law.loss(self.effective_parameters(parameters), self.effective_tokens(tokens))

    def next_epoch(self, tokens: float) -> float:
        """Value of one more epoch: its addition to D' over the unique tokens, from 1 (fresh text) to 0."""
        more = self.effective_tokens(tokens + self.unique)
        return (more - self.effective_tokens(tokens)) / self.unique

    def at(self, parameters: float, tokens: float) -> Spent:
        """The outcome of a model size after a number of tokens."""
        return Spent(
            parameters,
            tokens,
            tokens / self.unique,
            self.effective_tokens(tokens),
            self.loss(parameters, tokens),
            self.next_epoch(tokens),
        )

    def best(self, flops: float) -> Spent:
        """The split of 6 N D = flops that makes the loss least, where tokens repeat."""
        optimum, tokens = self.law.best(flops)
        if tokens <= self.unique:
            return self.at(optimum, tokens)

        def loss(log_parameters: float) -> float:
            parameters = math.exp(log_parameters)
            return self.loss(parameters, flops / 6 / parameters)

        middle = math.log(optimum)
        parameters = math.exp(least_on(loss, middle - 12, middle + 12))
        return self.at(parameters, flops / 6 / parameters)


def with_repeats(law: ScalingLaw, unique_tokens: float) -> Repeats:
    """The law for a corpus of `unique_tokens`. Raises UserError where the law has another form."""
    if not 1 <= unique_tokens < math.inf:
        raise WrongUse(f"the corpus has {unique_tokens} tokens: use a positive number")
    if not isinstance(law, Law):
        raise UserError(f"{law.name} says nothing of repeated tokens: use --law besiroglu")
    return Repeats(law, float(unique_tokens))


def _decayed(amount: float, whole: float, decay: float) -> float:
    """`amount` where what is beyond `whole` loses its value."""
    unique = min(amount, whole)
    repetitions = amount / unique - 1
    return unique + unique * decay * (1 - math.exp(-repetitions / decay))
