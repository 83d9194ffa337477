"""Every architecture's config by its kind, and the way back from plain values."""

from typing import Any

from maquette.base.errors import WrongUse, did_you_mean
from maquette.models.config import DecoderConfig
from maquette.models.smlp_config import SMLPConfig
from maquette.nn.rules import Parametrisation

ModelConfig = DecoderConfig | SMLPConfig
KINDS: dict[str, type[ModelConfig]] = {kind.kind: kind for kind in (DecoderConfig, SMLPConfig)}


def kind_of(content: Any) -> type[ModelConfig]:
    """The class of a config's plain values: what its `kind` says, a decoder where it says nothing.

    Raises WrongUse where it says what is no kind, and for values that are no fields.
    """
    if not isinstance(content, dict):
        example = content if isinstance(content, str) and content in KINDS else DecoderConfig.kind
        raise WrongUse(
            f"model is {content!r}, not fields: write model: {{kind: {example}}}; "
            f"the kinds are {', '.join(KINDS)}"
        )
    name = content.get("kind", DecoderConfig.kind)
    if not isinstance(name, str):
        raise WrongUse(f"model.kind is {name!r}: write the name of one kind: {', '.join(KINDS)}")
    if name not in KINDS:
        raise WrongUse(f"unknown model.kind {name}{did_you_mean(name, KINDS)}")
    return KINDS[name]


def check_sequence(config: ModelConfig, length: int) -> None:
    """Raise WrongUse where a model of that shape cannot learn from sequences of `length` tokens."""
    if isinstance(config, SMLPConfig):
        config.check_sequence(length)


def config_from(content: dict[str, Any]) -> ModelConfig:
    """The config of plain values, as `dataclasses.asdict` gives them.

    Raises TypeError and KeyError for values that are not a config's.
    """
    fields = dict(content)
    rules = Parametrisation(**fields.pop("parametrisation"))
    return kind_of(content)(**fields, parametrisation=rules)
