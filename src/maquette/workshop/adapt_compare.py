"""Adapt a language model by every method that fits, and say which is worth it on this data.

    compare(Path("runs/first"), "questions.jsonl", Path("runs/compared"))

Every method is a run of its own in the folder, with the same data, steps and seed, and its own rate; those
that train least come first, for a process keeps the memory that one has taken. A method that is done is not
run again by `resume`, one that was cut off goes on. The recommendation: of the methods whose score cannot be
told from the best one's (95 %), the one that forgets least, for a model that answers and still writes its
own text is worth more; where what is forgotten is not known, the one that trains least.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maquette.adaptation.methods import METHODS, PICTURES, Method, checked, count
from maquette.adaptation.recipes import AdaptOptions, text_recipe
from maquette.base.errors import UserError, WrongUse
from maquette.base.files import read_json, write_json
from maquette.corpus.progress import Progress, silent
from maquette.corpus.text.store import TOKENIZER
from maquette.corpus.tokenizer import load_tokenizer
from maquette.models.store import language_config
from maquette.training.observer import Observer
from maquette.training.run import RunDirectory
from maquette.workshop.adapt import ADAPTATION
from maquette.workshop.adapt_data import data_of
from maquette.workshop.adapt_text import SEQUENCE, adapt_text
from maquette.workshop.chat import template_for

COMPARISON = "comparison.json"
TEXT_METHODS = tuple(method for method in METHODS if method not in PICTURES)


@dataclass(frozen=True)
class Comparison:
    """What each method made of the same data."""

    base: Path
    """directory of the run that was adapted"""
    methods: list[dict[str, Any]]
    """plain values of each adapted run, as its `adaptation.json` has them, the best first"""
    left_out: dict[str, str]
    """reason why a method was left out, by its name"""
    recommended: str
    """name of the recommended method"""
    why: str
    """reason of the recommendation"""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `comparison.json` has them."""
        return {
            "base": str(self.base),
            "methods": self.methods,
            "left_out": self.left_out,
            "recommended": self.recommended,
            "why": self.why,
            "run": self.methods[[m["method"] for m in self.methods].index(self.recommended)]["run"],
        }


def compare(
    run: Path,
    source: str,
    folder: Path,
    options: AdaptOptions,
    methods: Sequence[str] = TEXT_METHODS,
    *,
    fields: Mapping[str, str] | None = None,
    template: str | None = None,
    resume: bool = False,
    observer: Callable[[str], Observer | None] = lambda method: None,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """Adapt the language model of `run` by each method; the runs and `comparison.json` are in `folder`.

    options: of every method; its own method and rate are not used. source, fields, template: see
    `adapt_data.data_of`. observer: what shows the training of a method. Raises WrongUse where `folder`
    exists and nothing is resumed, and where no method fits the model.
    """
    chosen = [checked(method) for method in dict.fromkeys(methods)]
    for method in chosen:
        if method in PICTURES:
            raise WrongUse(f"{method} is not for a run of text: use {', '.join(TEXT_METHODS)}")
    start = run.expanduser().resolve()
    if not start.is_dir():
        raise UserError(f"{run} does not exist: name a run directory")
    config = language_config(start)
    if folder.exists() and not resume:
        raise WrongUse(f"{folder} exists: choose another --run, or go on with --resume")
    sequence = options.sequence or min(config.context, SEQUENCE)
    data = data_of(
        source, folder / "corpus", load_tokenizer(start / TOKENIZER), sequence,
        fields=fields, template=template_for(start, template), resume=resume, progress=progress,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    done: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    fitting: dict[Method, int] = {}
    for method in chosen:
        try:
            counted = count(config, replace(options, method=method).adapter("text"))
        except WrongUse as error:  # the model has no place for it
            left_out[method] = str(error)
            say(f"{method} is left out: {error}")
        else:
            fitting[method] = counted.trained
    if not fitting:
        raise WrongUse(f"no method fits: {'; '.join(left_out.values())}")
    for number, method in enumerate(sorted(fitting, key=fitting.__getitem__), 1):
        path, own = folder / method, replace(options, method=method, learning_rate=None)
        if resume and (path / ADAPTATION).exists():
            if RunDirectory(path).recipe() != text_recipe(own, start, config, data):
                raise WrongUse(f"{path} was adapted with other options: choose another --run")
            done.append(read_json(path / ADAPTATION))
            continue
        say(f"{method}: {number} of {len(fitting)}")
        adapted = adapt_text(
            start, data.corpus, path, own,
            resume=resume, observer=observer(method), progress=progress, say=say,
        )  # fmt: skip
        done.append(json.loads(json.dumps(adapted.to_dict())))
    done.sort(key=lambda one: one["metric_after"])
    name, why = recommended(done)
    result = Comparison(start, done, left_out, name, why)
    write_json(folder / COMPARISON, result.to_dict())
    return result


def recommended(done: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """The method to take, and why; see the file's docstring. done: the best first."""
    best = done[0]
    near = [one for one in done if not _worse(one, best)]
    if best["metric_after"] >= best["metric_before"]:
        return best["method"], "no method has made the held-out score better: more data or steps"
    if all(one["forgetting"] for one in near):
        chosen = min(near, key=forgotten)
        reason = f"forgets least ({forgotten(chosen):+.3f} bits per byte of the base's own text)"
    else:
        chosen = min(near, key=lambda one: one["trained_parameters"])
        reason = f"trains least ({chosen['trained_parameters']:,} parameters)"
    if len(near) == 1:
        return chosen["method"], "its score is better than any other's"
    names = ", ".join(one["method"] for one in near)
    return chosen["method"], f"of {names}, whose scores cannot be told apart, it {reason}"


def forgotten(one: Mapping[str, Any]) -> float:
    """Bits per byte of the base's own held-out text that an adaptation costs."""
    return float(one["forgetting"]["after"] - one["forgetting"]["before"])


def _worse(one: Mapping[str, Any], best: Mapping[str, Any]) -> bool:
    """Whether a score is worse than the best by more than chance: 1.96 standard errors of the difference.

    The two are of the same held-out text, so this is on the careful side.
    """
    errors = [each["stderr_after"] for each in (one, best)]
    if None in errors:
        return bool(one["metric_after"] > best["metric_after"])
    return bool(one["metric_after"] - best["metric_after"] > 1.96 * math.hypot(*errors))
