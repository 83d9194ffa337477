"""The ladder of shapes that plans choose from, and the size of a batch."""

from maquette.base.errors import WrongUse
from maquette.models.config import DecoderConfig
from maquette.nn.rules import Role

HEAD = 64


def nearest_shape(
    parameters: float, vocabulary: int, context: int, embedded: bool = True
) -> DecoderConfig:
    """The decoder of the ladder whose size is nearest by ratio (see `shape`).

    embedded: whether `parameters` counts the embeddings.
    """
    best: DecoderConfig | None = None
    best_distance = float("inf")
    for step in range(1, 1000):
        config = shape(HEAD * step, vocabulary, context)
        size = config.parameters()
        if not embedded:
            size -= config.parameters_by_role()[Role.INPUT]
        distance = max(size / parameters, parameters / size)
        if distance >= best_distance:
            break
        best, best_distance = config, distance
    assert best is not None
    if best_distance > 2 and best.width > HEAD:
        raise WrongUse(
            f"{parameters:.3g} parameters are called for, and shapes end at {best.parameters():.3g}: "
            f"give a smaller budget"
        )
    return best


def shape(width: int, vocabulary: int, context: int) -> DecoderConfig:
    """One rung: depth = width / 64 (nanochat's ratio), four blocks at least."""
    return DecoderConfig(
        vocabulary=vocabulary,
        context=context,
        width=width,
        depth=max(4, width // HEAD),
        heads=max(1, width // HEAD),
    )


def batch_tokens(tokens: float, context: int) -> int:
    """Tokens a step: the power of two nearest to their root, a sequence at least.

    GPT-3 took 0.5 to 3.2 M for 300 G tokens (root 0.55 M), Chinchilla 1.5 to 3 M for 1.4 T (1.2 M),
    and 2,048 to 4,096 served best for 3 M tokens here (docs/log.md).
    """
    return max(context, 1 << round(0.5 * (int(tokens).bit_length() - 0.5)))
