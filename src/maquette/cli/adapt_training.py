"""What adapt dpo and adapt grpo share: the options of run, data and training, and how they begin."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maquette.cli.terminal import Terminal, TrainingProgress
from maquette.cli.texts import line_ends

if TYPE_CHECKING:
    from maquette.adaptation.recipes import AdaptOptions


def add_run_and_data(
    parser: argparse.ArgumentParser, method: str, data: str, parts: str, sequence: str
) -> None:
    """The options of the base, the data and the new run.

    data: help of DATA. parts: those of a record that --fields names. sequence: help of --sequence.
    """
    parser.add_argument("base", metavar="RUN", help="the run that is adapted")
    parser.add_argument("data", metavar="DATA", help=data)
    parser.add_argument("--run", help=f"the new run's directory (default: runs/{method})")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was cut off")
    parser.add_argument("--sequence", type=int, help=sequence)
    parser.add_argument("--fields", default="", metavar="PART=NAME,...",
                        help="of records: " + ", ".join(f"{part}=..." for part in parts.split()))  # fmt: skip
    parser.add_argument("--template", type=line_ends, metavar="TEXT",
                        help="how an answer is written (as RUN learnt, else {prompt}{answer})")  # fmt: skip


def given(arguments: argparse.Namespace, method: str) -> tuple[Path, str, Path, "AdaptOptions"]:
    """Base, data, the new run's directory, and what is trained."""
    from maquette.training.run import free_name

    path = Path(arguments.run or free_name(Path("runs"), method)).expanduser()
    return Path(arguments.base), arguments.data, path, options_of(arguments)


def shared(arguments: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    """What both methods are told besides: how data are read, whether to go on, whom to tell."""
    from maquette.cli.corpus_examples import fields_of

    return {
        "fields": fields_of(arguments.fields),
        "template": arguments.template,
        "resume": arguments.resume,
        "observer": TrainingProgress(terminal),
        "say": terminal.say,
    }


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
        sequence=arguments.sequence,
    )
