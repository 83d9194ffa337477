"""Let a language model write instructions and examples of them, and learn from what it wrote (self-instruct).

SEEDS is a file of records with instruction, input and output (.jsonl, .json, .csv, .parquet ...). The model
is shown some of them and writes more; what is short, long, of forbidden words, or close to what is there
(ROUGE-L) is dropped; then it writes inputs and outputs, and what repeats or contradicts itself is dropped.
RUN learns the seeds and what is left: the run of --run is an ordinary one, with generated.jsonl, every
instruction with its origin and why it was dropped. What was written carries the terms of RUN. A job that was
cut off goes on with --resume to the same result.

example: maquette adapt self-instruct runs/first seeds.jsonl --run runs/taught
         maquette adapt self-instruct runs/first seeds.jsonl --count 500 --rouge-l 0.6 --train lora
         maquette adapt self-instruct runs/first seeds.jsonl --run runs/taught --resume
"""

import argparse
from pathlib import Path
from typing import Any

from maquette.cli.terminal import Terminal, TrainingProgress
from maquette.cli.texts import line_ends

SHOWN = 6  # reasons that are named


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", metavar="RUN", help="the run that writes and learns")
    parser.add_argument("seeds", metavar="SEEDS", help="a file of seed instructions")
    parser.add_argument("--run", help="the adapted run's directory (default: runs/self-instruct)")
    parser.add_argument("--resume", action="store_true", help="go on with a job that was cut off")
    parser.add_argument("--seed", type=int, default=0)
    writing = parser.add_argument_group("writing")
    writing.add_argument("--count", type=int, default=100, help="instructions to write (100)")
    writing.add_argument("--rounds", type=int, default=20, help="rounds at most (20)")
    writing.add_argument("--prompts", type=int, default=8, help="prompts a round (8)")
    writing.add_argument("--shown", type=int, default=8, help="instructions in a prompt (8)")
    writing.add_argument("--own", type=int, default=2, help="of these written by itself (2)")
    writing.add_argument("--tokens", type=int,
                         help="tokens written after a prompt (a third of the context)")  # fmt: skip
    writing.add_argument("--temperature", type=float, default=0.7, help="of instructions (0.7)")
    writing.add_argument("--top-p", type=float, default=0.5, help="(0.5)")
    writing.add_argument("--instance-temperature", type=float, default=0.0,
                         help="of inputs and outputs (0: greedy)")  # fmt: skip
    writing.add_argument("--samples", type=int, default=1,
                         help="times that each instruction is asked for examples (1)")  # fmt: skip
    dropping = parser.add_argument_group("filters")
    dropping.add_argument("--least-words", type=int, default=4, help="(4)")
    dropping.add_argument("--most-words", type=int, default=150, help="(150)")
    dropping.add_argument("--forbidden", metavar="WORD,...",
                          help="words that no instruction may hold (image, file, draw ...)")  # fmt: skip
    dropping.add_argument("--rouge-l", type=float, default=0.7,
                          help="largest ROUGE-L with an instruction that is there (0.7)")  # fmt: skip
    learning = parser.add_argument_group("learning")
    learning.add_argument("--train", default="full", metavar="METHOD",
                          help="what is trained: full, lora, bias, ... (%(default)s)")  # fmt: skip
    learning.add_argument("--written", type=line_ends, metavar="TEXT",
                          default="{instruction}\\nInput: {input}\\nOutput:",
                          help="how an instruction is asked; \\n is a line end")  # fmt: skip
    learning.add_argument("--steps", type=int, default=300, help="(%(default)s)")
    learning.add_argument("--batch", type=int, default=16, help="sequences a step (16)")
    learning.add_argument("--learning-rate", type=float, help="(default: the method's own)")
    learning.add_argument("--sequence", type=int, help="tokens a training sequence")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.adaptation.recipes import AdaptOptions
    from maquette.adaptation.self_instruct import FORBIDDEN, SelfInstructOptions
    from maquette.cli.adapted import losses, show_adapted
    from maquette.training.run import free_name
    from maquette.workshop.adapt_self_instruct import self_instruct

    terminal = Terminal(arguments.json)
    words = arguments.forbidden
    options = SelfInstructOptions(
        count=arguments.count,
        rounds=arguments.rounds,
        prompts=arguments.prompts,
        shown=arguments.shown,
        own=arguments.own,
        items=arguments.shown,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        instance_temperature=arguments.instance_temperature,
        samples=arguments.samples,
        least_words=arguments.least_words,
        most_words=arguments.most_words,
        forbidden=FORBIDDEN if words is None else tuple(w.strip() for w in words.split(",") if w.strip()),
        rouge_l=arguments.rouge_l,
        written=arguments.written,
        seed=arguments.seed,
    )  # fmt: skip
    learning = AdaptOptions(
        arguments.train,
        steps=arguments.steps,
        batch=arguments.batch,
        learning_rate=arguments.learning_rate,
        sequence=arguments.sequence,
        seed=arguments.seed,
    )
    path = Path(arguments.run or free_name(Path("runs"), "self-instruct")).expanduser()
    with terminal.stages() as progress:
        done = self_instruct(
            Path(arguments.base),
            Path(arguments.seeds),
            path,
            options,
            learning,
            tokens=arguments.tokens,
            resume=arguments.resume,
            observer=TrainingProgress(terminal),
            progress=progress,
            say=terminal.say,
        )
    written = done.written
    reasons = ", ".join(f"{n:,} {why}" for why, n in list(written.dropped.items())[:SHOWN])
    terminal.say(
        f"{len(written.own):,} instructions of {written.rounds} rounds, from {len(written.seeds):,} seeds; "
        f"dropped: {reasons or 'none'}"
    )
    show_adapted(done.adapted, terminal, losses(done.adapted))
    return done.to_dict()
