"""Memory and speed of serving a decoder: weights in so many bits, keys and values, bandwidth over bytes.

A token of one sequence reads the weights, but for the row of the embedding alone, and the keys and values of
all positions before it. tokens a second = share x bandwidth / bytes, with the share of `serving_devices.py`
(Pope et al. 2022, section 2: decoding is bound by memory). Left out: batches, whose rows share the weights,
and reading the prompt, which is bound by products.
"""

from dataclasses import dataclass

from maquette.models.config import DecoderConfig
from maquette.nn.rules import Role
from maquette.scaling.serving_devices import ServingDevice

BITS = {"F16": 16.0, "Q8_0": 8.5, "Q6_K": 6.5625, "Q4_K": 4.5, "Q4_0": 4.5}
"""bits a weight of a matrix by GGUF's types, scales included"""
OUTPUT_BITS = {"Q4_K": 6.5625, "Q4_0": 6.5625}
"""bits a weight of the output, where they are others"""
CACHE_BYTES = 2
WORKING = 64 * 2**20
"""bytes of a sequence's activations and of the program, rounded up; llama.cpp's are of this size"""


@dataclass(frozen=True)
class Serving:
    """A model in so many bits, at one context, on a device.

    weights, cache: bytes. read: bytes that a token reads. speed: tokens a second; peak: at the whole
    bandwidth.
    """

    bits: str
    context: int
    weights: float
    cache: float
    read: float
    fits: bool
    speed: float
    peak: float

    @property
    def memory(self) -> float:
        """Bytes in all."""
        return self.weights + self.cache + WORKING


def weight_bytes(config: DecoderConfig, bits: str) -> tuple[float, float]:
    """Bytes of the weights, and of those that every token reads."""
    roles, each = config.parameters_by_role(), BITS[bits]
    output = OUTPUT_BITS.get(bits, each)
    embedding = config.vocabulary * config.width
    positions = roles[Role.INPUT] - embedding
    own = embedding * (output if config.tied else each) / 8
    rest = (roles[Role.HIDDEN] * each + roles[Role.OUTPUT] * output) / 8
    rest += 4 * roles[Role.VECTOR]
    return own + 4 * positions + rest, rest + (own if config.tied else 0)


def serve(config: DecoderConfig, device: ServingDevice, bits: str, context: int) -> Serving:
    """Memory and speed of one sequence whose context is full."""
    weights, read = weight_bytes(config, bits)
    cache = float(context * config.kv_bytes_per_token(CACHE_BYTES))
    peak = device.bandwidth / (read + cache)
    fits = weights + cache + WORKING <= device.usable
    return Serving(bits, context, weights, cache, read + cache, fits, device.share * peak, peak)


def contexts_of(config: DecoderConfig) -> list[int]:
    """Contexts that are shown: an eighth, and all of it."""
    return sorted({max(1, config.context // 8), config.context})
