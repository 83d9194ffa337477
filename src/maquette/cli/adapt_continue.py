"""Continue the training of a language model on your own documents, with some of its own text replayed.

DOCUMENTS are files and folders of text, or one corpus of text. The run that comes out is an ordinary one,
which begins with the weights of RUN. Its learning rate is warmed up again, to that of RUN's training or, in
fewer than 1000 steps, to less, and decayed again; --replay is the share of the sequences that are of the
corpus of RUN, against forgetting (0: none, which needs no corpus of RUN). Without --steps the documents are
read four times, in 10 to 2000 steps.

Printed are bits per byte of held-out documents (a tenth) and of the base's own held-out text, before and
after.

example: maquette adapt continue runs/first notes/ --run runs/mine
         maquette adapt continue runs/first notes/ letters.txt --replay 0.25 --steps 500
         maquette adapt continue runs/first corpus/mine --replay 0
"""

import argparse
from pathlib import Path
from typing import Any

from maquette.cli.terminal import Terminal, TrainingProgress


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", metavar="RUN", help="the run that goes on")
    parser.add_argument("documents", metavar="DOCUMENTS", nargs="+",
                        help="files and folders of text, or a corpus")  # fmt: skip
    parser.add_argument("--run", help="the new run's directory (default: runs/continue)")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was cut off")
    parser.add_argument("--replay", type=float, metavar="SHARE", default=None,
                        help="share of the sequences that are of RUN's own corpus (0.1)")  # fmt: skip
    parser.add_argument("--steps", type=int, help="steps (four passes over the documents)")
    parser.add_argument("--batch", type=int, default=16, help="sequences a step (16)")
    parser.add_argument("--sequence", type=int, help="tokens a training sequence")
    parser.add_argument(
        "--learning-rate", type=float, help="(default: RUN's own, less in few steps)"
    )
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.adaptation.continued import REPLAY, ContinueOptions
    from maquette.cli.adapted import losses, show_adapted
    from maquette.training.run import free_name
    from maquette.workshop.adapt_continue import adapt_continue

    terminal = Terminal(arguments.json)
    path = Path(arguments.run or free_name(Path("runs"), "continue")).expanduser()
    options = ContinueOptions(
        steps=arguments.steps,
        batch=arguments.batch,
        sequence=arguments.sequence,
        learning_rate=arguments.learning_rate,
        replay=REPLAY if arguments.replay is None else arguments.replay,
        seed=arguments.seed,
    )
    with terminal.stages() as progress:
        done = adapt_continue(
            Path(arguments.base),
            arguments.documents,
            path,
            options,
            resume=arguments.resume,
            observer=TrainingProgress(terminal),
            progress=progress,
            say=terminal.say,
        )
    show_adapted(done, terminal, losses(done))
    return done.to_dict()
