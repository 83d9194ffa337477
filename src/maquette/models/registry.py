"""Every architecture's config by its kind, and the way back from plain values.

Kinds of pictures are imported when they are named.
"""

import importlib
from typing import Any

from maquette.base.errors import WrongUse, did_you_mean
from maquette.models.config import DecoderConfig
from maquette.models.picture_config import PictureConfig
from maquette.models.smlp_config import SMLPConfig
from maquette.nn.rules import Parametrisation

ModelConfig = DecoderConfig | SMLPConfig
AnyConfig = ModelConfig | PictureConfig
KINDS: dict[str, type[ModelConfig]] = {kind.kind: kind for kind in (DecoderConfig, SMLPConfig)}
PICTURES = {
    "vit": "vit_config.ViTConfig",
    "cnn": "cnn_config.CNNConfig",
    "clip": "clip_config.ClipConfig",
    "diffusion": "diffusion.config.DiffusionConfig",
    "prior": "prior_config.PriorConfig",
    "super_resolution": "super_resolution_config.SuperResolutionConfig",
}


def kind_of(content: Any) -> type[AnyConfig]:
    """The class of a config's plain values: what its `kind` says, a decoder where it says nothing.

    Raises WrongUse where it says what is no kind, and for values that are no fields.
    """
    known = [*KINDS, *PICTURES]
    if not isinstance(content, dict):
        example = content if isinstance(content, str) and content in known else DecoderConfig.kind
        raise WrongUse(
            f"model is {content!r}, not fields: write model: {{kind: {example}}}; "
            f"the kinds are {', '.join(known)}"
        )
    name = content.get("kind", DecoderConfig.kind)
    if not isinstance(name, str):
        raise WrongUse(f"model.kind is {name!r}: write the name of one kind: {', '.join(known)}")
    if name not in known:
        raise WrongUse(f"unknown model.kind {name}{did_you_mean(name, known)}")
    return KINDS[name] if name in KINDS else picture_kind(name)


def picture_kind(name: str) -> type[PictureConfig]:
    """The config of a kind of picture model."""
    module, kind = PICTURES[name].rsplit(".", 1)
    found: type[PictureConfig] = getattr(importlib.import_module(f"maquette.models.{module}"), kind)
    return found


def check_sequence(config: ModelConfig, length: int) -> None:
    """Raise WrongUse where a model of that shape cannot learn from sequences of `length` tokens."""
    if isinstance(config, SMLPConfig):
        config.check_sequence(length)


def config_from(content: dict[str, Any]) -> AnyConfig:
    """The config of plain values, as `dataclasses.asdict` gives them.

    Raises TypeError and KeyError for values that are not a config's.
    """
    fields = dict(content)
    rules = Parametrisation(**fields.pop("parametrisation"))
    kind = kind_of(content)
    if issubclass(kind, PictureConfig):  # JSON has lists where a config has tuples
        fields = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
    return kind(**fields, parametrisation=rules)
