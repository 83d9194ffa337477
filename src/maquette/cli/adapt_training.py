"""What adapt dpo and adapt grpo share: the options of what is trained."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maquette.adaptation.recipes import AdaptOptions


def add_training(
    parser: argparse.ArgumentParser, steps: int, batch: int, samples: str, rate: float
) -> None:
    """The options of what is trained and for how long.

    samples: what a batch is counted in. rate: the default rate over that of adapt METHOD.
    """
    parser.add_argument("--train", default="full", metavar="METHOD",
                        help="what is trained: full, lora, bias, ... (%(default)s)")  # fmt: skip
    parser.add_argument("--rank", type=int, default=8, help="rank of lora, size of adapter (8)")
    parser.add_argument("--prompts", type=int, default=10, help="length of prompt, prefix (10)")
    parser.add_argument("--steps", type=int, default=steps, help="steps (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=batch, help=f"{samples} a step (%(default)s)")
    parser.add_argument("--learning-rate", type=float,
                        help=f"(default: {rate:g} of that of adapt METHOD)")  # fmt: skip
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)


def options_of(arguments: argparse.Namespace) -> "AdaptOptions":
    """The options of `add_training`, as `AdaptOptions`."""
    from maquette.adaptation.recipes import AdaptOptions

    return AdaptOptions(
        arguments.train,
        steps=arguments.steps,
        batch=arguments.batch,
        learning_rate=arguments.learning_rate,
        weight_decay=arguments.weight_decay,
        prompts=arguments.prompts,
        rank=arguments.rank,
        seed=arguments.seed,
        sequence=getattr(arguments, "sequence", None),
    )
