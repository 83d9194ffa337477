"""Learn from preferences by direct preference optimisation (DPO): pairs of answers, one of them better.

DATA is a file of records with prompt, chosen and rejected (texts, or conversations whose last message is the
answer), or a corpus of examples with rejected answers. RUN should answer already, tuned on examples: it is
where training starts, and the reference from which --beta keeps the model from moving far. Everything is
trained, or what --train names: lora, bias, adapter, prompt, prefix.

Printed are the share of held-out pairs whose chosen answer is the likelier one, before and after, how far the
model has moved, and what held-out chosen answers and the base's own held-out text cost.

example: maquette adapt dpo runs/tuned pairs.jsonl --run runs/preferred
         maquette adapt dpo runs/tuned pairs.jsonl --train lora --rank 8 --beta 0.3
         maquette adapt dpo runs/tuned votes.csv --fields prompt=question,answer=won,rejected=lost
"""

import argparse
from typing import Any

from maquette.cli.adapt_training import add_run_and_data, add_training, given, shared
from maquette.cli.terminal import Terminal


def configure(parser: argparse.ArgumentParser) -> None:
    add_run_and_data(
        parser,
        "dpo",
        "records of pairs, or a corpus of examples",
        "prompt answer rejected",
        "tokens of a sequence of answers",
    )
    parser.add_argument("--beta", type=float, default=0.1,
                        help="strength of the tie to the reference (%(default)s)")  # fmt: skip
    parser.add_argument("--label-smoothing", type=float, default=0.0, metavar="P",
                        help="probability that a pair is the wrong way round (0)")  # fmt: skip
    add_training(parser, 100, 8, "sequences of pairs", rate=0.03)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.cli.adapted import show_adapted
    from maquette.workshop.adapt_dpo import adapt_dpo

    terminal = Terminal(arguments.json)
    with terminal.stages() as progress:
        done = adapt_dpo(
            *given(arguments, "dpo"),
            beta=arguments.beta,
            label_smoothing=arguments.label_smoothing,
            progress=progress,
            **shared(arguments, terminal),
        )
    bits = (f"{score.bits_per_byte:.4f}" for score in done.scores)
    show_adapted(done, terminal, [["bits per byte of held-out chosen answers", *bits]])
    terminal.say(
        f"held-out pairs whose reward is right: {done.reward_accuracy:.4f}; moved from the base by "
        f"{done.divergence:.4f} nats a token"
    )
    return done.to_dict()
