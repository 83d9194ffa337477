"""Every architecture's config by its kind, and the way back from plain values."""

from typing import Any

from maquette.base.errors import WrongUse, did_you_mean
from maquette.base.named import named
from maquette.models.config import DecoderConfig
from maquette.models.picture_config import PictureConfig
from maquette.models.smlp_config import SMLPConfig
from maquette.nn.rules import Parametrisation

ModelConfig = DecoderConfig | SMLPConfig
AnyConfig = ModelConfig | PictureConfig
KINDS: dict[str, str | type[Any]] = {
    "decoder": "maquette.models.config.DecoderConfig",
    "smlp": "maquette.models.smlp_config.SMLPConfig",
    "vit": "maquette.models.vit_config.ViTConfig",
    "cnn": "maquette.models.cnn_config.CNNConfig",
    "clip": "maquette.models.clip_config.ClipConfig",
    "diffusion": "maquette.models.diffusion.config.DiffusionConfig",
    "prior": "maquette.models.prior_config.PriorConfig",
    "super_resolution": "maquette.models.super_resolution_config.SuperResolutionConfig",
}
"""the config of an architecture by its kind, or where it is"""


def kind_of(content: Any) -> type[AnyConfig]:
    """The class of a config's plain values: what its `kind` says, a decoder where it says nothing.

    Raises WrongUse where it says what is no kind, and for values that are no fields.
    """
    known = list(KINDS)
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
    kind: type[AnyConfig] = named(KINDS[name])
    return kind


def config_from(content: dict[str, Any]) -> AnyConfig:
    """The config of plain values, as `dataclasses.asdict` gives them.

    Raises TypeError and KeyError for values that are not a config's.
    """
    fields = dict(content)
    rules = Parametrisation(**fields.pop("parametrisation"))
    kind = kind_of(content)  # JSON has lists where a config has tuples
    fields = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
    return kind(**fields, parametrisation=rules)
