"""AdamW over groups of parameters that share their rate and decay.

Loshchilov and Hutter 2019, algorithm 2, in torch's fused form: one pass over memory for the whole
model. The rate of a group is the schedule's times what the parametrisation gives its role and the
recipe its parameters (`parameter_groups.py`), never an absolute number of its own.
"""

from collections import defaultdict

import torch
from torch import Tensor, nn

from maquette.models.base import Model
from maquette.nn.parametrisation import declared
from maquette.nn.rules import Scaling
from maquette.parallel.group import Group
from maquette.training.parameter_groups import group_of, learning
from maquette.training.recipe import Optimiser


class ModelOptimiser:
    """AdamW over the parameters of one model that are trained, with their gradients."""

    def __init__(self, model: Model, settings: Optimiser) -> None:
        self._model, self._clip = model, settings.clip
        self._learning = list(learning(model, settings.groups))
        self._adamw = make_optimiser(model, model.scaling, settings)

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that have gradients now, in the order in which the model registers them."""
        return [p for p, _ in self._learning if p.requires_grad]

    def begin(self, step: int) -> None:
        """Let the parameters that train at step `step` (from 1) have gradients, and no others."""
        for p, frozen in self._learning:
            p.requires_grad_(step > frozen)

    def reduce(self, group: Group, scale: float = 1.0) -> float:
        """Sum the gradients over the ranks, scale and clip them; returns the norm before clipping."""
        group.sum_gradients(self.trained)
        if scale != 1.0:
            gradients = [p.grad for p in self.trained if p.grad is not None]
            torch._foreach_mul_(gradients, scale)
        return clip_gradients(self.trained, self._clip)

    def update(self, rate: float) -> None:
        """Take a step at the schedule's rate, and drop the gradients."""
        set_learning_rate(self._adamw, rate)
        self._adamw.step()
        self.skip()

    def skip(self) -> None:
        """Drop the gradients."""
        self._adamw.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """See `optimiser_tensors`."""
        return optimiser_tensors(self._model, self._adamw)

    def load(self, saved: dict[str, Tensor]) -> None:
        """See `load_optimiser`."""
        load_optimiser(self._model, self._adamw, saved)


def make_optimiser(model: nn.Module, scaling: Scaling, settings: Optimiser) -> torch.optim.AdamW:
    """One group for each pair of multipliers, in the order the model first declares them."""
    learns = {id(p) for p, _ in learning(model, settings.groups)}
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for p in declared(model):
        if id(p.tensor) not in learns:
            continue
        m = scaling.multipliers(p.role, p.fan_in, p.residual)
        _, factor, _ = group_of(p.name, settings.groups)
        groups[m.learning_rate * factor, m.weight_decay].append(p.tensor)
    return torch.optim.AdamW(
        [
            {
                "params": tensors,
                "rate": rate,
                "lr": settings.learning_rate * rate,
                "weight_decay": settings.weight_decay * decay,
            }
            for (rate, decay), tensors in groups.items()
        ],
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        fused=True,
    )


def set_learning_rate(optimiser: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every group its share of the schedule's rate."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate * group["rate"]


@torch.no_grad()
def clip_gradients(parameters: list[nn.Parameter], longest: float) -> float:
    """Scale all gradients as one vector to at most `longest` (0: leave them); returns its norm."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if longest > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, longest, norm)
    return float(norm)


def optimiser_tensors(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's moments and step counts by parameter name, not copied."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        f"{names[id(p)]}.{key}": value.detach()
        for p, entry in optimiser.state.items()
        for key, value in entry.items()
    }


def load_optimiser(
    model: nn.Module, optimiser: torch.optim.Optimizer, saved: dict[str, Tensor]
) -> None:
    """Take what `optimiser_tensors` gave; parameters without an entry begin anew."""
    names = {id(p): name for name, p in model.named_parameters()}
    optimiser.state.clear()
    for group in optimiser.param_groups:
        for p in group["params"]:
            entry = {}
            for key in ("exp_avg", "exp_avg_sq", "step"):
                value = saved.get(f"{names[id(p)]}.{key}")
                if value is not None and value.shape == p.shape:  # laid out as the parameter is
                    entry[key] = torch.empty_like(p, dtype=value.dtype).copy_(value)
                elif value is not None:
                    entry[key] = value.to(p.device)
            if entry:
                optimiser.state[p] = entry
