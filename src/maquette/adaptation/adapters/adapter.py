"""What every adapter is: tensors of its own, places of a frozen model, and a weight.

    adapter = LoRAConfig(rank=4).build(model)
    attach(model, "terse", adapter)              under that name, among the others
    adapter.weight = 0.5                         half of the change; 0: the model as it was, to the bit
    adapter.weight = torch.tensor([1.0, -0.5])   each row of a batch its own

An attached adapter is a module of the model, so that it is trained, moved and saved with it; it takes part
through torch's hooks at its places, so that no model knows adapters. What a run with an adapter keeps are
the adapter's tensors and the parameters that the model calls its task's (`Model.task_parameters`: the heads
of a classifier); everything else is its base's.
"""

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from maquette.adaptation.adapters.config import AdapterConfig
from maquette.base.errors import WrongUse
from maquette.models.base import Model
from maquette.models.store import tensors_of
from maquette.nn import parametrisation

ADAPTERS = "adapters"
Weight = float | Tensor


class Adapter(nn.Module):
    """An adapter of a model, of a kind without tensors where no subclass adds some.

    A subclass makes its parameters under the names of their places in `__init__` (`add_submodule`), declares
    their roles as every module does, and hooks itself to the places in `hook`.
    """

    def __init__(self, config: AdapterConfig, model: Model) -> None:
        super().__init__()
        self.config = config
        self._weight: Weight = 1.0
        self.off = False
        """whether it takes no part: its weight is 0 for all rows, or it is merged into the model's weights"""
        self._handles: list[RemovableHandle] = []

    @property
    def weight(self) -> Weight:
        """Factor of what the adapter adds: one for all rows of a batch, or (batch,)."""
        return self._weight

    @weight.setter
    def weight(self, weight: Weight) -> None:
        self.check_weight(weight)
        self._weight = weight
        self.off = not isinstance(weight, Tensor) and weight == 0

    def check_weight(self, weight: Weight) -> None:
        """Raise WrongUse for a weight that this kind cannot have."""

    def initialise(self, model: Model, seed: int) -> None:
        """Fill the parameters, as a function of the seed and their names."""
        parametrisation.initialise(self, model.scaling, seed)

    def hook(self, model: Model) -> None:
        """Take part in the model's computation, by `add` and `keep`."""

    def trained_tensors(self) -> dict[str, Tensor]:
        """Its tensors as its config's `trained` names them: without what only training needs."""
        return tensors_of(self)

    def add(self, module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        """Add the weighted change of a module's input to its output.

        change: a module or method of the adapter, so that a copy of the model (an average) has its own.
        """
        self.add_handle(module.register_forward_hook(Addition(self, change)))

    def add_handle(self, handle: RemovableHandle) -> None:
        """A hook that is removed when the adapter is detached."""
        self._handles.append(handle)

    def unhook(self) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


class Addition:
    """A forward hook: a module's output and what an adapter adds to it."""

    def __init__(self, adapter: Adapter, change: Callable[[Tensor], Tensor]) -> None:
        self.adapter, self.change = adapter, change

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        if self.adapter.off:
            return output
        return output + weighted(self.change(inputs[0]), self.adapter.weight)


def weighted(change: Tensor, weight: Weight) -> Tensor:
    """A change (batch, ...) times its weight."""
    if isinstance(weight, Tensor):
        check_rows(weight, len(change))
        return change * weight.to(change).view(-1, *[1] * (change.dim() - 1))
    return change if weight == 1 else change * weight


def check_rows(weight: Tensor, rows: int) -> None:
    """Raise WrongUse where there is not one weight a row."""
    if len(weight) != rows:
        raise WrongUse(
            f"an adapter has weights for {len(weight)} rows, and {rows} are computed: give one a row"
        )


def attach(model: Model, name: str, adapter: Adapter) -> None:
    """Attach an adapter under a name. Raises WrongUse for a name that is taken or has a dot."""
    if "." in name or name in adapters_of(model):
        raise WrongUse(f"an adapter cannot be called {name}: choose another name, without dots")
    if ADAPTERS not in model._modules:
        model.add_module(ADAPTERS, nn.ModuleDict())
        own = model._modules.pop(ADAPTERS)
        model._modules = {ADAPTERS: own, **model._modules}  # before the heads in every sum
    held = model._modules[ADAPTERS]
    assert isinstance(held, nn.ModuleDict)
    adapter.hook(model)
    held[name] = adapter


def detach(model: Model, name: str) -> Adapter:
    """Take an adapter off; the model is as it was before."""
    held = model._modules[ADAPTERS]
    assert isinstance(held, nn.ModuleDict)
    adapter = held.pop(name)
    assert isinstance(adapter, Adapter)
    adapter.unhook()
    if not held:
        del model._modules[ADAPTERS]
    return adapter


def adapters_of(model: nn.Module) -> dict[str, Adapter]:
    """The attached adapters by name."""
    held = model._modules.get(ADAPTERS)
    return dict(held.items()) if isinstance(held, nn.ModuleDict) else {}  # type: ignore[arg-type]


def is_task_parameter(model: nn.Module, name: str) -> bool:
    """Whether a tensor of a model with adapters is not its base's: an adapter's, or the task's."""
    own: tuple[str, ...] = getattr(model, "task_parameters", ())
    return name.startswith(f"{ADAPTERS}.") or any(fnmatchcase(name, pattern) for pattern in own)


def trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that a run may train: with adapters, theirs and the task's alone."""
    adapted = bool(adapters_of(model))
    for name, p in model.named_parameters():
        if not adapted or is_task_parameter(model, name):
            yield name, p


def saved_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What a run saves of its model: all tensors; with adapters, those that are not the base's."""
    tensors = tensors_of(model)
    if not adapters_of(model):
        return tensors
    frozen = {name for name, _ in model.named_parameters() if not is_task_parameter(model, name)}
    return {name: tensor for name, tensor in tensors.items() if name not in frozen}


def final_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What a finished run saves of its model: `saved_tensors`, of adapters their `trained_tensors`."""
    tensors = saved_tensors(model)
    for name, adapter in adapters_of(model).items():
        prefix = f"{ADAPTERS}.{name}."
        tensors = {n: t for n, t in tensors.items() if not n.startswith(prefix)}
        tensors |= {prefix + n: t for n, t in adapter.trained_tensors().items()}
    return tensors


def add_submodule(adapter: nn.Module, place: str, module: nn.Module) -> None:
    """Register a module of an adapter under the name of its place in the model."""
    *path, last = place.split(".")
    at = adapter
    for part in path:
        if part not in at._modules:
            at.add_module(part, nn.Module())
        inner = at._modules[part]
        assert inner is not None
        at = inner
    at.add_module(last, module)


def blocks_of(model: Model) -> Iterator[tuple[str, nn.Module]]:
    """Every block of every stack, with its name."""
    names = {module: name for name, module in model.named_modules()}
    for stack in model.stacks():
        for block in stack:
            yield names[block], block


def unsupported_model(model: Model, kind: str, what: str, others: str) -> WrongUse:
    """The refusal of a model without places for a kind of adapter."""
    name = getattr(getattr(model, "config", None), "kind", type(model).__name__)
    return WrongUse(f"{kind} adapts {what}, this run is a {name}: use {others}")
