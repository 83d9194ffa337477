"""Learn from answers of one's own that can be checked (GRPO): reinforcement learning in its simplest form.

DATA is a file of records with prompt and answer, a corpus of examples, or a world of questions by name
(maquette eval --list). Every step samples a group of answers to each of some prompts, rewards those whose
result is that of the right answer (in small letters, white space as one space; --answer-after: what follows
the last such mark), and makes the better ones of a group likelier. RUN should answer some already: where no
answer of a group is right, nothing is learned. Everything is trained, or what --train names.

Printed are the share of held-out questions answered right, greedily, before and after, the mean reward of the
first and last steps, how far the model has moved, and what the base's own held-out text costs.

example: maquette adapt grpo runs/tuned sums.jsonl --run runs/reinforced --tokens 8
         maquette adapt grpo runs/tuned arithmetic_2da --train lora --group 16 --tokens 8
         maquette adapt grpo runs/star reasons.jsonl --answer-after '####' --kl 0.04
"""

import argparse
from typing import Any

from maquette.cli.adapt_training import add_run_and_data, add_training, given, shared
from maquette.cli.terminal import Terminal
from maquette.cli.texts import line_ends


def configure(parser: argparse.ArgumentParser) -> None:
    add_run_and_data(
        parser,
        "grpo",
        "records, a corpus of examples, a world",
        "prompt answer",
        "room in tokens for a prompt with its answer",
    )
    parser.add_argument("--group", type=int, default=8, help="answers to a prompt (%(default)s)")
    parser.add_argument("--tokens", type=int, default=32,
                        help="most tokens of an answer, its end included (%(default)s)")  # fmt: skip
    parser.add_argument("--answer-after", type=line_ends, default="", metavar="TEXT",
                        help="what the result of an answer stands after, as ####; \\n: line end")  # fmt: skip
    parser.add_argument("--kl", type=float, default=0.0,
                        help="weight of the divergence from RUN (0; 0.04 in the paper)")  # fmt: skip
    add_training(parser, 100, 16, "prompts", rate=0.05)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.cli.adapted import show_adapted
    from maquette.workshop.adapt_grpo import adapt_grpo

    terminal = Terminal(arguments.json)
    with terminal.stages() as progress:
        done = adapt_grpo(
            *given(arguments, "grpo"),
            group=arguments.group,
            answer_tokens=arguments.tokens,
            answer_after=arguments.answer_after,
            kl=arguments.kl,
            progress=progress,
            **shared(arguments, terminal),
        )
    rewards = (f"{reward:.4f}" for reward in done.rewards)
    show_adapted(done, terminal, [["mean reward of the first and the last steps", *rewards]])
    terminal.say(f"moved from the base by {done.divergence:.4f} nats a token")
    return done.to_dict()
