"""Self-instruct as a job: a run writes instructions and their instances, and the same run learns them.

    self_instruct(Path("runs/first"), Path("seeds.jsonl"), Path("runs/taught"), SelfInstructOptions(), ...)

Beside the run stands RUN-written: `state.json`, what was written so far, kept after every round and every
batch of instances, each a function of (seed, what was written before it), so that a job that was cut off
goes on to the same result; and `examples.jsonl`, what is learned, the seeds' instances among it. The run
itself is `adapt_text`'s, with `generated.jsonl`: every instruction with its origin, its nearest neighbour,
and why it was dropped. What was written carries the terms of the model that wrote it.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maquette.adaptation.recipes import AdaptOptions
from maquette.adaptation.self_instruct import Instruction, SelfInstructOptions
from maquette.base.errors import UserError, WrongUse
from maquette.base.files import read_json, sha256, write_atomic, write_json
from maquette.corpus.examples.example import LICENCES
from maquette.corpus.progress import Progress, silent
from maquette.corpus.tasks import file_records, first_of
from maquette.corpus.terms import joined_licences
from maquette.models.store import language_config
from maquette.training.observer import Observer
from maquette.training.run_terms import terms_of
from maquette.workshop.adapt import ADAPTATION
from maquette.workshop.adapt_resume import alone, base_identity, check_begun, check_folder
from maquette.workshop.adapt_text import AdaptedText, adapt_text
from maquette.workshop.load import load
from maquette.workshop.self_instruct_writer import Writer, Written

STATE, EXAMPLES, GENERATED = "state.json", "examples.jsonl", "generated.jsonl"
TEMPLATE = "{prompt} {answer}"


@dataclass(frozen=True)
class SelfInstructed:
    """The adapted run, and what it was adapted to."""

    adapted: AdaptedText
    written: Written

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `adaptation.json` has them."""
        left_out: Counter[str] = Counter()
        for one in self.written.own:
            left_out.update(one.left_out)
        return self.adapted.to_dict() | {
            "seeds": len(self.written.seeds),
            "instructions": len(self.written.own),
            "instances": sum(len(one.instances) for one in self.written.own),
            "rounds": self.written.rounds,
            "dropped": self.written.dropped,
            "instances_dropped": dict(left_out.most_common()),
        }


@alone
def self_instruct(
    run: Path,
    seeds: Path,
    path: Path,
    options: SelfInstructOptions,
    learning: AdaptOptions,
    *,
    tokens: int | None = None,
    resume: bool = False,
    observer: Observer | None = None,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda text: None,
) -> SelfInstructed:
    """Let the model of `run` write instructions from `seeds`, and learn them into the run `path`.

    learning: how they are learned. tokens: largest number of tokens that are written after a prompt (None: a
    third of the context). Raises WrongUse where `path` exists and nothing is resumed, or what was written is
    by other settings; UserError for seeds that are none, and for a context that holds no prompt.
    """
    start = run.expanduser().resolve()
    if not start.is_dir():
        raise UserError(f"{run} does not exist: name a run directory")
    context = language_config(start).context
    folder = path.with_name(f"{path.name}-written")
    corpus = path.with_name(f"{path.name}-corpus")
    for there in (path, folder, corpus):
        check_folder(there, start, resume)
    check_begun(folder / EXAMPLES, path, corpus)  # they come after what was written
    first = read_seeds(seeds)
    identity = {
        "options": json.loads(json.dumps(dataclasses.asdict(options))),
        "tokens": tokens,
        "seeds": sha256(seeds.expanduser()),
        "base": base_identity(start)["weights"],
    }
    state = read_json(folder / STATE) if (folder / STATE).exists() else None
    if state is not None and state["identity"] != identity:
        raise WrongUse(
            f"{folder} was written by other settings, seeds or weights: choose another --run"
        )
    written = _loaded(state) if state else Written(first)

    def keep() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / STATE, {"identity": identity, "rounds": written.rounds,
                                    "instructions": [vars(one) for one in written.instructions]})  # fmt: skip

    if not (folder / EXAMPLES).exists():
        room = tokens or context // 3
        writer = Writer(load(start).optimise("fp32"), room, options)
        for _ in writer.rounds(written):
            keep()
            progress("instructions", len(written.own), options.count)
        for done in writer.instances(written):
            keep()
            progress("instances", done, len(written.own))
        keep()
        _write_examples(folder / EXAMPLES, written, options, start)
    if not any(one.instances for one in written.own):
        say("nothing that was written passed: the seeds alone are learned")
    adapted = adapt_text(
        start, str(folder / EXAMPLES), path, learning,
        template=TEMPLATE, resume=resume, observer=observer, progress=progress, say=say,
    )  # fmt: skip
    write_atomic(path / GENERATED, _lines(map(vars, written.instructions)))
    outcome = SelfInstructed(dataclasses.replace(adapted, method="self-instruct"), written)
    write_json(path / ADAPTATION, outcome.to_dict())
    return outcome


def read_seeds(path: Path) -> list[Instruction]:
    """The seeds of a file of records: `instruction`, `input` and `output`, or `instances` of the two.

    `prompt` and `answer` are an instruction without an input; records of one instruction are joined;
    `is_classification` or choices say that the answer is one of a few labels. Raises UserError for a record
    without an instruction or an output, with its place, and for a file without any.
    """
    seeds: dict[str, Instruction] = {}
    for record, where in file_records(path.expanduser()):
        if not isinstance(record, dict):
            raise UserError(f"{where} is no object: write one with instruction, input and output")
        text = _word(record, "instruction", "prompt")
        rows = record.get("instances")
        rows = rows if isinstance(rows, list) else [record]
        if not text:
            raise UserError(f"{where} has no instruction: write instruction, input and output")
        labels = bool(record.get("is_classification") or record.get("choices"))
        licence = str(first_of(record, LICENCES) or "")
        one = seeds.setdefault(text, Instruction(text, where, labels=labels, licence=licence))
        for row in rows:
            output = _word(row, "output", "answer") if isinstance(row, dict) else ""
            if not output:
                raise UserError(f"{where} has no output: write instruction, input and output")
            one.instances.append((_word(row, "input"), output))
    if not seeds:
        raise UserError(f"{path} holds no seeds: write records of instruction, input and output")
    return list(seeds.values())


def _word(record: dict[str, Any], *names: str) -> str:
    """The text of the first of the fields that is there."""
    value = next((record[name] for name in names if record.get(name) is not None), "")
    return str(value).strip()


def _loaded(state: dict[str, Any]) -> Written:
    rows = [
        Instruction(**row | {"instances": [tuple(pair) for pair in row["instances"]]})
        for row in state["instructions"]
    ]
    return Written(rows, state["rounds"])


def _write_examples(path: Path, written: Written, options: SelfInstructOptions, run: Path) -> None:
    """The instances of the seeds and of what was written, as examples."""
    licence = joined_licences(terms_of(run))
    rows = []
    for one in written.instructions:
        own = one.origin.startswith("round ")
        for given, output in one.instances if one.kept else []:
            row = {"prompt": options.prompt(one.text, given), "answer": output}
            row["source"] = f"written by {run.name}, {one.origin}" if own else one.origin
            terms = licence if own else one.licence
            rows.append(row | ({"licence": terms} if terms else {}))
    write_atomic(path, _lines(rows))


def _lines(rows: Any) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
