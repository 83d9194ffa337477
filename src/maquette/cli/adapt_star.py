"""Let a language model teach itself to reason: STaR (Zelikman et al. 2022), from questions and answers.

DATA: a corpus of examples (maquette corpus examples), or records with prompt and answer. In every loop the
model of the loop before writes to each question; what ends with the right answer after --answer-after is
kept, rationale and all. Questions that failed are asked again by the --hint, which shows the answer; what
reaches it then is kept without the hint. RUN itself is tuned on what was kept, anew in every loop. RUN must
answer some questions this way from the start: tune it on a few rationales first (adapt full). The run is
that of the last loop; each loop's questions, answers and run stay in it. --resume goes on with one that was
cut off.

example: maquette corpus examples corpus/steps column_addition_2d_trace column_addition_2d_hinted \\
             --tokenizer bytes
         maquette train tiny --data.kind examples --data.corpus corpus/steps --steps 800 --run runs/steps
         maquette corpus examples corpus/sums column_addition_2d column_addition_3d --tokenizer bytes
         maquette adapt star runs/steps corpus/sums --replay corpus/steps --run runs/star
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maquette.cli.terminal import Terminal
from maquette.cli.texts import line_ends

if TYPE_CHECKING:
    from maquette.workshop.adapt_star import Loop


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", metavar="RUN", help="the run that teaches itself")
    parser.add_argument("data", metavar="DATA", help="a corpus of examples, or files of records")
    parser.add_argument("--run", help="the new run's directory (default: runs/star)")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was cut off")
    parser.add_argument("--loops", type=int, default=8, help="loops (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=40, help="steps in the first loop (40)")
    parser.add_argument("--growth", type=float, default=1.2,
                        help="factor of the steps from loop to loop (1.2)")  # fmt: skip
    parser.add_argument("--questions", type=int, metavar="N",
                        help="ask so many in a loop, drawn anew in each (all)")  # fmt: skip
    parser.add_argument("--answer-after", type=line_ends, default="####", metavar="TEXT",
                        help="the answer is what is written after this (####); \\n: a line end")  # fmt: skip
    parser.add_argument("--hint", type=line_ends, default="{prompt} ({answer})", metavar="TEXT",
                        help="how a question shows its answer ({prompt} ({answer}))")  # fmt: skip
    parser.add_argument("--no-rationalise", action="store_true", help="give no hints")
    parser.add_argument("--replay", action="append", default=[], metavar="DATA",
                        help="examples with rationales that every loop learns too (repeatable)")  # fmt: skip
    parser.add_argument("--tokens", type=int, help="tokens written to a question at the most")
    parser.add_argument("--batch", type=int, default=16, help="sequences a step (16)")
    parser.add_argument("--learning-rate", type=float, help="(default: that of adapt full)")
    parser.add_argument("--sequence", type=int, help="tokens a training sequence")
    parser.add_argument("--fields", metavar="PART=NAME,...", default="",
                        help="of records: prompt=..., answer=...")  # fmt: skip
    parser.add_argument("--template", type=line_ends, metavar="TEXT",
                        help="how examples are written (as RUN learnt, else {prompt}{answer})")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.adaptation.star import StarOptions
    from maquette.base.files import write_atomic
    from maquette.cli.adapted import show_adapted
    from maquette.cli.corpus_examples import fields_of
    from maquette.training.run import free_name
    from maquette.workshop.adapt_star import adapt_star
    from maquette.workshop.charts import png
    from maquette.workshop.star_chart import star_chart

    terminal = Terminal(arguments.json)
    path = Path(arguments.run or free_name(Path("runs"), "star")).expanduser()
    options = StarOptions(
        loops=arguments.loops,
        steps=arguments.steps,
        growth=arguments.growth,
        questions=arguments.questions,
        answer_after=arguments.answer_after,
        hint="" if arguments.no_rationalise else arguments.hint,
        tokens=arguments.tokens,
        batch=arguments.batch,
        learning_rate=arguments.learning_rate,
        sequence=arguments.sequence,
        seed=arguments.seed,
    )
    with terminal.stages(counts=True) as progress:
        done = adapt_star(
            Path(arguments.base),
            arguments.data,
            path,
            options,
            fields=fields_of(arguments.fields),
            template=arguments.template,
            replay=arguments.replay,
            resume=arguments.resume,
            on_loop=lambda loop: terminal.say(line_of(loop)),
            progress=progress,
            say=terminal.say,
        )
    picture = path / "loops.png"
    write_atomic(picture, png(star_chart(done.loops)))
    terminal.table(
        ["loop", "steps", "asked", "kept", "rationalised", "held-out questions right", "minutes"],
        [
            [one.loop, one.steps, one.asked, one.kept, one.rationalised,
             f"{one.heldout.mean:.3f}", f"{one.seconds / 60:.1f}"]
            for one in done.loops
        ],
    )  # fmt: skip
    show_adapted(done, terminal)
    terminal.say(f"accuracy by loop: {picture}")
    return done.to_dict() | {"picture": str(picture)}


def line_of(loop: "Loop") -> str:
    """What came of a loop, in a line."""
    right = f"{loop.heldout.mean:.3f} of held-out questions right"
    if not loop.loop:
        return f"the base: {right}"
    return (
        f"loop {loop.loop}: {loop.kept:,} of {loop.asked:,} kept, {loop.rationalised:,} rationalised, "
        f"{loop.steps:,} steps, {right}"
    )
