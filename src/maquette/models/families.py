"""The published members of the decoder family as settings of `DecoderConfig`.

Each takes the sizes and gives the rest. Sources: GPT-2 (Radford et al. 2019), GPT-3 (Brown et
al. 2020, section 2.1), GPT-J (Wang and Komatsuzaki 2021), PaLM (Chowdhery et al. 2022, section
2), LLaMA (Touvron et al. 2023, section 2.2), BLOOM (Scao et al. 2022, section 3.2), GPT-NeoX (Black
et al. 2022, section 2.1), Gopher (Rae et al. 2021, section 3.1).
"""

from typing import Any

from maquette.models.config import DecoderConfig
from maquette.nn.rules import Parametrisation

STANDARD = Parametrisation(kind="standard")


def gpt2(**sizes: Any) -> DecoderConfig:
    """Learned positions, LayerNorm before each branch, GELU, biases everywhere, tied."""
    settings: dict[str, Any] = {
        "positions": "learned",
        "norm": "layernorm",
        "norm_bias": True,
        "activation": "gelu_tanh",
        "attention_bias": True,
        "feedforward_bias": True,
        "tied": True,
        "parametrisation": STANDARD,
    }
    return DecoderConfig(**(settings | sizes))


def gpt3(**sizes: Any) -> DecoderConfig:
    """GPT-2 with every second block banded. The paper does not print the band's width."""
    return gpt2(**({"band": 256} | sizes))


def gptj(**sizes: Any) -> DecoderConfig:
    """Parallel block from one norm, interleaved rotary pairs on part of the head."""
    settings: dict[str, Any] = {
        "block": "parallel",
        "norm": "layernorm",
        "norm_bias": True,
        "activation": "gelu_tanh",
        "rotary_pairs": "interleaved",
        "feedforward_bias": True,
        "output_bias": True,
        "parametrisation": STANDARD,
    }
    return DecoderConfig(**(settings | sizes))


def neox(**sizes: Any) -> DecoderConfig:
    """GPT-NeoX: GPT-J's block with rotary pairs in halves, biases everywhere but on the logits."""
    changes = {"rotary_pairs": "half", "attention_bias": True, "output_bias": False}
    return gptj(**(changes | sizes))


def palm(**sizes: Any) -> DecoderConfig:
    """Parallel block, SwiGLU four widths wide, one key-value head, no bias at all, tied."""
    width = sizes.get("width", DecoderConfig.width)
    settings: dict[str, Any] = {
        "block": "parallel",
        "norm": "layernorm",
        "hidden": 4 * width,
        "kv_heads": 1,
        "tied": True,
        "parametrisation": STANDARD,
    }
    return DecoderConfig(**(settings | sizes))


def gopher(**sizes: Any) -> DecoderConfig:
    """Gopher and Chinchilla: GPT-2 with RMSNorm; rotary positions where theirs are relative."""
    return gpt2(**({"norm": "rmsnorm", "norm_bias": False, "positions": "rotary"} | sizes))


def llama(**sizes: Any) -> DecoderConfig:
    """RMSNorm, SwiGLU, rotary positions, no biases; grouped queries by `kv_heads`."""
    return DecoderConfig(**({"parametrisation": STANDARD} | sizes))


def bloom(**sizes: Any) -> DecoderConfig:
    """ALiBi, a norm after the embedding, GELU, biases, tied."""
    settings: dict[str, Any] = {
        "positions": "alibi",
        "embedding_norm": True,
        "norm": "layernorm",
        "norm_bias": True,
        "activation": "gelu_tanh",
        "attention_bias": True,
        "feedforward_bias": True,
        "tied": True,
        "parametrisation": STANDARD,
    }
    return DecoderConfig(**(settings | sizes))
