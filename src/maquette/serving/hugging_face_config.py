"""Hugging Face's `config.json` of GPT-2, GPT-J, LLaMA and BLOOM as ours, and ours as theirs.

A key that is not there means what it means in transformers, whose defaults stand here; what would be
computed otherwise is refused.
"""

from typing import Any

from maquette.base.errors import UserError
from maquette.corpus.special_tokens import SpecialTokens
from maquette.models import families
from maquette.models.config import DecoderConfig

CLASSES = {
    "gpt2": "GPT2LMHeadModel",
    "gptj": "GPTJForCausalLM",
    "llama": "LlamaForCausalLM",
    "bloom": "BloomForCausalLM",
}
# What their config.json leaves out (transformers 5, the same as 4).
DEFAULTS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    },
    "gptj": {
        "vocab_size": 50400,
        "n_positions": 2048,
        "n_embd": 4096,
        "n_layer": 28,
        "n_head": 16,
        "n_inner": None,
        "rotary_dim": 64,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": False,
    },
    "llama": {
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "partial_rotary_factor": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
    },
    "bloom": {
        "vocab_size": 250880,
        "seq_length": 2048,
        "hidden_size": 64,
        "n_layer": 2,
        "n_head": 8,
        "layer_norm_epsilon": 1e-5,
        "apply_residual_connection_post_layernorm": False,
        "tie_word_embeddings": True,
    },
}
_GPT = {
    "max_position_embeddings": "n_positions",
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
}
# Other names of the same keys.
ALIASES = {
    "gpt2": _GPT,
    "gptj": _GPT,
    "llama": {},
    "bloom": {
        "n_embed": "hidden_size",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
    },
}


def read_config(family: str, theirs: dict[str, Any]) -> DecoderConfig:
    """Their config.json as ours. Raises UserError for a variant that would compute otherwise."""
    c = Values(family, theirs)
    if theirs.get("quantization_config") is not None:
        raise UserError("the model's weights are quantised: save it without quantization_config")
    c.expect(
        "tie_word_embeddings", *{"gptj": (False,), "bloom": (True,)}.get(family, (True, False))
    )
    common: dict[str, Any] = {"vocabulary": c.whole("vocab_size")}
    if family in ("gpt2", "gptj"):
        c.expect("activation_function", "gelu_pytorch_tanh", "gelu_new")
        common |= {
            "context": c.whole("n_positions"),
            "width": c.whole("n_embd"),
            "depth": c.whole("n_layer"),
            "heads": c.whole("n_head"),
            "hidden": c.whole_or_none("n_inner"),
            "norm_epsilon": c.number("layer_norm_epsilon"),
        }
        if family == "gptj":
            return families.gptj(**common, rotary_dims=c.whole_or_none("rotary_dim"))
        c.expect("scale_attn_by_inverse_layer_idx", False)
        c.expect("add_cross_attention", False)
        c.expect("scale_attn_weights", True)
        return families.gpt2(**common, tied=c["tie_word_embeddings"])
    if family == "bloom":
        c.expect("apply_residual_connection_post_layernorm", False)
        return families.bloom(
            **common,
            context=c.whole("seq_length"),
            width=c.whole("hidden_size"),
            depth=c.whole("n_layer"),
            heads=c.whole("n_head"),
            norm_epsilon=c.number("layer_norm_epsilon"),
        )
    c.expect("hidden_act", "swish", "silu")
    c.expect("attention_bias", False)
    c.expect("mlp_bias", False)
    c.expect("partial_rotary_factor", None, 1.0)
    return families.llama(
        **common,
        context=c.whole("max_position_embeddings"),
        width=c.whole("hidden_size"),
        depth=c.whole("num_hidden_layers"),
        heads=c.whole("num_attention_heads"),
        kv_heads=c.whole_or_none("num_key_value_heads"),
        head_dim=c.whole_or_none("head_dim"),
        hidden=c.whole("intermediate_size"),
        norm_epsilon=c.number("rms_norm_eps"),
        rotary_base=_rotary_base(c),
        tied=c["tie_word_embeddings"],
    )


def _rotary_base(c: "Values") -> float:
    """The base of a plain rotation. Raises UserError for one that is scaled."""
    rope = c.config.get("rope_scaling") or c.config.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise UserError(
            f"config.json: rope_parameters is {rope!r}, not an object: restore the file"
        )
    kind = rope.get("rope_type", rope.get("type"))
    if kind not in (None, "default"):
        raise UserError(
            f"the model has rope_type = {kind!r}, which Maquette does not compute "
            f"(it computes 'default')"
        )
    return Values("llama", c.config | rope).number("rope_theta")


class Values:
    """The values of a config.json by the family's own names, each of the type that it must have."""

    def __init__(self, family: str, config: dict[str, Any]) -> None:
        names, self._defaults = ALIASES[family], DEFAULTS[family]
        self.config = {names.get(key, key): value for key, value in config.items()}
        self._values = self._defaults | self.config

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def whole(self, key: str) -> int:
        """A whole number above 0."""
        value = self[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(
                f"config.json: {key} is {value!r}, not a whole number above 0: restore it"
            )
        return value

    def whole_or_none(self, key: str) -> int | None:
        """A whole number above 0, or null."""
        return None if self[key] is None else self.whole(key)

    def number(self, key: str) -> float:
        """A number above 0."""
        value = self[key]
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise UserError(f"config.json: {key} is {value!r}, not a number above 0: restore it")
        return float(value)

    def expect(self, key: str, *accepted: Any) -> None:
        """Raise UserError for a value that is not computed; null is the default."""
        if self[key] is None:
            self._values[key] = self._defaults[key]
        expect(self._values, key, accepted)


def expect(config: dict[str, Any], name: str, accepted: tuple[Any, ...]) -> None:
    """Raise UserError for a value that Maquette does not compute."""
    if config.get(name) not in accepted:
        raise UserError(
            f"the model has {name} = {config.get(name)!r}, which Maquette does not compute "
            f"(it computes {accepted[-1]!r})"
        )


def family_of(config: DecoderConfig) -> str:
    """The Hugging Face family that has this shape. Raises UserError when none has."""
    sizes = {
        name: getattr(config, name)
        for name in ("vocabulary", "context", "width", "depth", "heads", "norm_epsilon", "dropout")
    }
    free: dict[str, tuple[str, ...]] = {
        "gpt2": ("hidden", "tied"),
        "gptj": ("hidden", "rotary_dims"),
        "llama": ("hidden", "kv_heads", "head_dim", "rotary_base", "tied"),
        "bloom": (),
    }
    for family, names in free.items():
        own = {name: getattr(config, name) for name in names}
        like = getattr(families, family)(**sizes, **own, parametrisation=config.parametrisation)
        if like == config:
            return family
    raise UserError(
        "no Hugging Face class has this architecture: export needs the shape of GPT-2, GPT-J, "
        "LLaMA or BLOOM (see maquette.models.families)"
    )


def write_config(
    family: str, c: DecoderConfig, special: SpecialTokens | None = None
) -> dict[str, Any]:
    """Our config as their config.json."""
    common: dict[str, Any] = {
        "architectures": [CLASSES[family]],
        "model_type": family,
        "vocab_size": c.vocabulary,
        "tie_word_embeddings": c.tied,
        "torch_dtype": "float32",
    } | token_ids(special)
    if family in ("gpt2", "gptj"):
        return common | {
            "n_positions": c.context,
            "n_embd": c.width,
            "n_layer": c.depth,
            "n_head": c.heads,
            "n_inner": c.inner,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": c.norm_epsilon,
            "rotary_dim": c.turned,
        }
    if family == "bloom":
        return common | {
            "seq_length": c.context,
            "hidden_size": c.width,
            "n_layer": c.depth,
            "n_head": c.heads,
            "layer_norm_epsilon": c.norm_epsilon,
        }
    return common | {
        "max_position_embeddings": c.context,
        "hidden_size": c.width,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.group_heads,
        "head_dim": c.head,
        "intermediate_size": c.inner,
        "hidden_act": "silu",
        "rms_norm_eps": c.norm_epsilon,
        "rope_theta": c.rotary_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rotary_base},
        "attention_bias": False,
        "mlp_bias": False,
    }


def token_ids(special: SpecialTokens | None, padding: bool = False) -> dict[str, Any]:
    """The keys of BOS, EOS and padding in config.json and generation_config.json."""
    if special is None:
        return {"bos_token_id": None, "eos_token_id": None}
    ends: Any = list(special.eos_token_ids)
    ids = {
        "bos_token_id": special.bos_token_id,
        "eos_token_id": ends if len(ends) > 1 else special.eos_token_id,
    }
    if padding:
        ids["pad_token_id"] = (
            special.eos_token_id if special.pad_token_id is None else special.pad_token_id
        )
    return ids
