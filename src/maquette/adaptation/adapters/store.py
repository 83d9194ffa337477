"""An adapter on disk: `adapter.json` and `adapter.safetensors`, beside no copy of its base.

    adapter.json          kind and options, where the base was, the base's hash
    adapter.safetensors   what `final_tensors` gives: the adapter's tensors, the task's parameters, buffers

An adapter is of one base: its hash covers config and weights, and another base is refused.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from maquette.adaptation.adapters.adapter import ADAPTERS, Adapter, attach, saved_tensors
from maquette.adaptation.adapters.config import AdapterConfig, adapter_from
from maquette.base.errors import UserError, WrongUse
from maquette.base.files import read_json, sha256, write_json
from maquette.models.base import Model
from maquette.models.store import CONFIG, copy_tensors

FORMAT = 1
ADAPTER, ADAPTER_WEIGHTS = "adapter.json", "adapter.safetensors"


@dataclass(frozen=True)
class Description:
    """What `adapter.json` says."""

    adapter: AdapterConfig
    """kind and options"""
    base: str
    """folder of the base when the adapter was made; "": the model's own start from `seed`"""
    base_hash: str
    """`base_hash` of the base"""
    seed: int
    """seed of the run"""

    def save(self, folder: Path) -> None:
        """Write `adapter.json`."""
        content = {"format": FORMAT, **dataclasses.asdict(self)}
        write_json(folder / ADAPTER, json.loads(json.dumps(content)))

    @property
    def prefix(self) -> str:
        """What the names of the adapter's tensors begin with in a run's files."""
        return f"{ADAPTERS}.{self.adapter.kind}."

    def stored(self, source: Path) -> AdapterConfig:
        """The config of the adapter in a file of the run: the trained one's in the final file."""
        return self.adapter.trained if source.name == ADAPTER_WEIGHTS else self.adapter


def read_description(folder: Path) -> Description:
    """Read `adapter.json`. Raises UserError where it is none, or of another format."""
    path = folder / ADAPTER
    if not path.exists():
        raise UserError(f"{folder} holds no adapter (no {ADAPTER}): name an adapted run")
    content = read_json(path)
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise UserError(f"{path} is damaged or of another version: restore it")
    try:
        return Description(**{**content, "adapter": adapter_from(content["adapter"])})
    except (TypeError, KeyError, WrongUse) as error:
        raise UserError(f"{path} is damaged or of another version: {error}") from error


def base_hash(folder: Path, weights: Path) -> str:
    """Hash of the model of a folder: its `config.json` as it was written, and its weights file."""
    plain = json.dumps(read_json(folder / CONFIG), sort_keys=True)
    return hashlib.sha256(f"{plain}\n{sha256(weights)}".encode()).hexdigest()


def load_kept(model: Model, tensors: dict[str, Tensor], source: Path | str) -> None:
    """Copy what `saved_tensors` gave into a model of the same adapters."""
    copy_tensors(saved_tensors(model), tensors, source)


def attach_saved(
    model: Model, name: str, description: Description, tensors: dict[str, Tensor], source: Path
) -> Adapter:
    """Attach an adapter with its tensors of a file to a model, under a name.

    Raises UserError where the file has parameters of a task, which are of that task's model alone.
    """
    adapter: Adapter = description.stored(source).build(model)
    own = {
        n.removeprefix(description.prefix): t for n, t in tensors.items() if n.startswith(ADAPTERS)
    }
    others = sorted(n for n in tensors if not n.startswith(ADAPTERS))
    if others:
        raise UserError(
            f"{source} has parameters of its task besides ({others[0]}): open that run itself"
        )
    copy_tensors({n: p.detach() for n, p in adapter.named_parameters()}, own, source)
    device = next(model.parameters()).device
    attach(model, name, adapter.to(device).eval())
    return adapter
