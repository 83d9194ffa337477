"""Every architecture's config by its kind, and the way back from plain values."""

from typing import Any

from maquette.base.errors import WrongUse, did_you_mean
from maquette.models.config import DecoderConfig
from maquette.models.smlp_config import SMLPConfig
from maquette.nn.rules import Parametrisation

ModelConfig = DecoderConfig | SMLPConfig
KINDS: dict[str, type[ModelConfig]] = {kind.kind: kind for kind in (DecoderConfig, SMLPConfig)}


def kind_of(content: dict[str, Any]) -> type[ModelConfig]:
    """The class of a config's plain values: what its `kind` says, a decoder where it says nothing."""
    name = content.get("kind", DecoderConfig.kind)
    if name not in KINDS:
        raise WrongUse(f"unknown model.kind {name}{did_you_mean(str(name), KINDS)}")
    return KINDS[name]


def config_from(content: dict[str, Any]) -> ModelConfig:
    """The config of plain values, as `dataclasses.asdict` gives them.

    Raises TypeError and KeyError for values that are not a config's.
    """
    fields = dict(content)
    rules = Parametrisation(**fields.pop("parametrisation"))
    return kind_of(content)(**fields, parametrisation=rules)
