"""What a task file says: YAML with lm-evaluation-harness' field names, so that tasks move across.

    task: capitals
    dataset_path: json                          # or csv, parquet, text: local files
    dataset_kwargs: {data_files: {train: shots.jsonl, test: capitals.jsonl}}
    fewshot_split: train
    test_split: test
    output_type: multiple_choice
    doc_to_text: "The capital of {{country}} is"
    doc_to_choice: cities                       # a column, a list, or a template that gives one
    doc_to_target: answer                       # a column or a template: a number or one of the choices

A field that is not known here is an error with its line, and so is one that asks for Python code
(`!function`, process_docs), for data from the hub, or for pictures. Beyond the harness:
`generation_kwargs.restrict`, and the metric acc_calibrated.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

import yaml

from maquette.base.errors import UserError, did_you_mean
from maquette.evaluation.tasks.filters import FILTERS, Filter

OUTPUT_TYPES = ("multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until")
METRICS = {
    "multiple_choice": ("acc", "acc_norm", "acc_bytes", "acc_calibrated", "acc_mutual_info",
                        "exact_match", "brier_score"),
    "loglikelihood": ("perplexity", "acc"),
    "loglikelihood_rolling": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    "generate_until": ("exact_match",),
}  # fmt: skip
DEFAULT_METRICS = {
    "multiple_choice": ("acc", "acc_norm"),
    "loglikelihood": ("perplexity", "acc"),
    "loglikelihood_rolling": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    "generate_until": ("exact_match",),
}
LOWER = frozenset("perplexity word_perplexity byte_perplexity bits_per_byte brier_score".split())
"""metrics of which less is better"""
EXACT_MATCH = frozenset("ignore_case ignore_punctuation ignore_numbers regexes_to_ignore".split())
GENERATION = frozenset("until max_gen_toks do_sample temperature top_p top_k restrict".split())
SAMPLERS = {"default": "random", "random": "random", "first_n": "first_n"}
IGNORED = frozenset("""task_alias tag group metadata should_decontaminate unsafe_code
doc_to_decontamination_query""".split())  # fmt: skip
"""fields of the harness that say nothing of the score"""
UNKNOWN = {
    "process_docs": "Python code, which is not run: write templates, or a file with the columns",
    "process_results": "Python code, which is not run: use metric_list and filter_list",
    "custom_dataset": "Python code, which is not run: write a file with the columns",
    "class": "Python code, which is not run: write templates",
    "doc_to_image": "a task of pictures, which is not asked here",
    "doc_to_audio": "a task of sounds, which is not asked here",
    "use_prompt": "a template of promptsource: write it as doc_to_text and doc_to_target",
}
"""fields of the harness that are not followed, and why"""


@dataclass(frozen=True)
class Metric:
    """A metric of a task, with what exact_match ignores."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FewShot:
    """How the examples that are shown are chosen and written; None: as the task's own."""

    sampler: str = "random"
    """random: others for every question; first_n: the first ones, the same for all"""
    split: str | None = None
    samples: tuple[Mapping[str, Any], ...] | None = None
    """the examples themselves"""
    doc_to_text: Any = None
    doc_to_target: Any = None
    doc_to_choice: Any = None
    target_delimiter: str | None = None
    fewshot_delimiter: str | None = None
    gen_prefix: str | None = None


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """A task's fields, as its file has them, checked. place: its file; lines: of its fields."""

    task: str
    output_type: str = "generate_until"
    dataset_path: str | None = None
    dataset_name: str | None = None
    dataset_kwargs: Mapping[str, Any] = field(default_factory=dict)
    training_split: str | None = None
    validation_split: str | None = None
    test_split: str | None = None
    fewshot_split: str | None = None
    doc_to_text: Any = ""
    doc_to_target: Any = ""
    doc_to_choice: Any = None
    description: str = ""
    target_delimiter: str = " "
    fewshot_delimiter: str = "\n\n"
    gen_prefix: str | None = None
    num_fewshot: int | None = None
    fewshot_config: FewShot = field(default_factory=FewShot)
    metric_list: tuple[Metric, ...] = ()
    generation_kwargs: Mapping[str, Any] = field(default_factory=dict)
    filter_list: tuple[tuple[str, tuple[Filter, ...]], ...] = ()
    """pipelines by name"""
    repeats: int = 1
    place: str = ""
    lines: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.output_type not in OUTPUT_TYPES:
            self.fault(
                "output_type",
                f"is {self.output_type}{did_you_mean(self.output_type, OUTPUT_TYPES)}",
            )
        if not self.metric_list:
            chosen = tuple(map(Metric, DEFAULT_METRICS[self.output_type]))
            object.__setattr__(self, "metric_list", chosen)
        for metric in self.metric_list:
            known = METRICS[self.output_type]
            if metric.name not in known:
                self.fault("metric_list", f"has {metric.name}, which is not of {self.output_type}"
                           f"{did_you_mean(metric.name, known)}")  # fmt: skip
        if self.output_type == "multiple_choice" and self.doc_to_choice is None:
            self.fault("doc_to_choice", "is missing: a question with choices needs them")
        if isinstance(self.doc_to_choice, list | dict) and not self.doc_to_choice:
            self.fault("doc_to_choice", "is an empty list: name two choices at least")
        for name in ("num_fewshot", "repeats"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < (name == "repeats")):
                self.fault(name, f"is {value!r}: use a whole number")

    def fault(self, name: str, what: str) -> NoReturn:
        """Raise the UserError of a field, with its file and line."""
        line = self.lines.get(name)
        place = f"{self.place}:{line}" if line else self.place or self.task
        raise UserError(f"{place}: {name} {what}")


FIELDS = {f.name for f in fields(TaskConfig)} - {"place", "lines"}
OF_FEWSHOT = {f.name for f in fields(FewShot)} | {"fewshot_indices"}


def read_task(path: Path) -> TaskConfig:
    """The task of a file. Raises UserError, with file and line, for what cannot be followed."""
    content, lines = _read(path)
    return task_config(content, str(path), lines)


def task_config(
    content: Mapping[str, Any], place: str = "", lines: Mapping[str, int] | None = None
) -> TaskConfig:
    """A task from its fields. place: what errors name; lines: of the fields."""
    reader = _Fields(place, lines or {})
    given: dict[str, Any] = {}
    for name, value in content.items():
        if name in UNKNOWN:
            reader.fault(name, f"asks for {UNKNOWN[name]}")
        if name not in FIELDS | IGNORED:
            reader.fault(name, f"is no field that is known{did_you_mean(str(name), FIELDS)}")
        if name in FIELDS and value is not None:
            given[name] = value
    if "task" not in given:
        given["task"] = Path(place).stem
    if not isinstance(given["task"], str):
        reader.fault("task", "names a group: name each task of it")
    for name in ("description", "target_delimiter", "fewshot_delimiter", "gen_prefix", "dataset_path",
                 "dataset_name", "training_split", "validation_split", "test_split",
                 "fewshot_split"):  # fmt: skip
        if not isinstance(given.get(name, ""), str):
            reader.fault(name, f"is {given[name]!r}: write a text")
    ways = {
        "fewshot_config": reader.few_shot,
        "metric_list": reader.metrics,
        "filter_list": reader.filters,
        "generation_kwargs": reader.generation,
        "dataset_kwargs": reader.dataset,
    }
    for name, way in ways.items():
        if name in given:
            given[name] = way(given[name])
    return TaskConfig(**given, place=place, lines=lines or {})


class _Fields:
    """Reads the fields that have fields of their own."""

    def __init__(self, place: str, lines: Mapping[str, int]) -> None:
        self._place, self._lines = place, lines

    def fault(self, name: str, what: str) -> NoReturn:
        line = self._lines.get(name)
        raise UserError(f"{self._place}{f':{line}' * bool(line)}: {name} {what}")

    def few_shot(self, value: Any) -> FewShot:
        found = dict(self._table("fewshot_config", value, OF_FEWSHOT))
        sampler = found.get("sampler", "random")
        if sampler not in SAMPLERS:
            self.fault(
                "fewshot_config", f"has the sampler {sampler}{did_you_mean(str(sampler), SAMPLERS)}"
            )
        found["sampler"] = SAMPLERS[sampler]
        samples, chosen = found.get("samples"), found.pop("fewshot_indices", None)
        if samples is not None:
            if not isinstance(samples, list) or not all(isinstance(s, dict) for s in samples):
                self.fault("fewshot_config", "has samples that are no list of objects: write one")
            if chosen and not (
                isinstance(chosen, list)
                and all(isinstance(i, int) and 0 <= i < len(samples) for i in chosen)
            ):
                self.fault(
                    "fewshot_config",
                    f"has fewshot_indices {chosen!r}: list places of the {len(samples)} samples, from 0",
                )
            found["samples"] = tuple(samples[i] for i in chosen) if chosen else tuple(samples)
        elif chosen:
            self.fault("fewshot_config", "has fewshot_indices: write the examples as samples")
        return FewShot(**found)

    def metrics(self, value: Any) -> tuple[Metric, ...]:
        if not isinstance(value, list) or not value:
            self.fault("metric_list", "is no list: write such as [{metric: acc}]")
        found = []
        for one in value:
            if not isinstance(one, dict) or not isinstance(one.get("metric"), str):
                self.fault("metric_list", f"has {one!r}: write such as {{metric: acc}}")
            name, options = one["metric"], dict(one)
            for known in ("metric", "aggregation", "higher_is_better", "hf_evaluate"):
                options.pop(known, None)
            aggregation = one.get("aggregation")
            usual = {"perplexity": "perplexity", "bits_per_byte": "bits_per_byte"}.get(
                name, "weighted_perplexity" if name.endswith("_perplexity") else "mean"
            )
            if name == "brier_score":
                usual = "brier_score"
            if aggregation not in (None, usual):
                self.fault(
                    "metric_list", f"aggregates {name} by {aggregation}: it is by {usual} here"
                )
            for option in options.keys() - (EXACT_MATCH if name == "exact_match" else frozenset()):
                self.fault(
                    "metric_list", f"gives {name} the option {option}, which it does not have"
                )
            self._patterns(options.get("regexes_to_ignore"))
            found.append(Metric(name, options))
        return tuple(found)

    def _patterns(self, value: Any) -> None:
        if value is None:
            return
        if not isinstance(value, list) or not all(isinstance(pattern, str) for pattern in value):
            self.fault("metric_list", "has regexes_to_ignore, which is no list of texts: write one")
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as error:
                self.fault("metric_list", f"ignores {pattern!r}, which is no expression: {error}")

    def filters(self, value: Any) -> tuple[tuple[str, tuple[Filter, ...]], ...]:
        if not isinstance(value, list):
            self.fault("filter_list", "is no list: write such as [{name: first, filter: [...]}]")
        found = []
        for pipeline in value:
            if not isinstance(pipeline, dict) or not isinstance(pipeline.get("filter"), list):
                self.fault("filter_list", f"has {pipeline!r}: write a name and a list as filter")
            steps = []
            for step in pipeline["filter"]:
                name = step.get("function") if isinstance(step, dict) else None
                if name not in FILTERS:
                    self.fault(
                        "filter_list", f"has the function {name}{did_you_mean(str(name), FILTERS)}"
                    )
                options = {key: inner for key, inner in step.items() if key != "function"}
                try:
                    steps.append(FILTERS[name](**options))
                except (TypeError, ValueError) as error:
                    self.fault("filter_list", f"has {name} with options that do not fit: {error}")
            found.append((str(pipeline.get("name", "none")), tuple(steps)))
        return tuple(found)

    def generation(self, value: Any) -> Mapping[str, Any]:
        found = dict(self._table("generation_kwargs", value, GENERATION))
        until = found.get("until", [])
        if isinstance(until, str):
            until = [until]
        if not isinstance(until, list) or not all(isinstance(one, str) for one in until):
            self.fault("generation_kwargs", "has until, which is no list of texts: write one")
        if "until" in found:
            found["until"] = until
        most = found.get("max_gen_toks", 1)
        if type(most) is not int or most < 1:
            self.fault("generation_kwargs", f"has max_gen_toks {most!r}: use a whole number from 1")
        for name, kinds in {
            "temperature": (int, float),
            "top_p": (int, float),
            "top_k": (int,),
        }.items():
            if name in found and (
                isinstance(found[name], bool) or not isinstance(found[name], kinds)
            ):
                self.fault("generation_kwargs", f"has {name} {found[name]!r}: use a number")
        restrict = found.get("restrict", "choices")
        known = (
            isinstance(restrict, dict)
            and len(restrict) == 1
            and restrict.keys() <= {"regex", "schema"}
            and isinstance(restrict.get("regex", ""), str)
            and isinstance(restrict.get("schema", ""), str | dict)
        )
        if restrict != "choices" and not known:
            self.fault(
                "generation_kwargs", "has restrict: write choices, {regex: ...} or {schema: ...}"
            )
        return found

    def dataset(self, value: Any) -> Mapping[str, Any]:
        return self._table("dataset_kwargs", value, frozenset(("data_files", "trust_remote_code")))

    def _table(self, name: str, value: Any, known: frozenset[str] | set[str]) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            self.fault(name, "has no fields: write NAME: VALUE pairs below it")
        for key in value:
            if key not in known:
                self.fault(name, f"has {key}, which is not known{did_you_mean(str(key), known)}")
        return value


def _read(path: Path, above: tuple[Path, ...] = ()) -> tuple[dict[str, Any], dict[str, int]]:
    """The fields of a YAML file, those it includes first, and their lines."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8: convert it") from error
    try:
        content, root = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
    except yaml.constructor.ConstructorError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        what = "!function is Python code, which is not run: write a template in its place"
        raise UserError(
            f"{path}:{line}: {what if '!function' in str(error) else error.problem}"
        ) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line}: {error.problem or 'no YAML'}: mend the file") from error
    if not isinstance(content, dict) or not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path} is no task: write fields such as output_type and doc_to_text")
    lines = {str(key.value): key.start_mark.line + 1 for key, _ in root.value}
    included = content.pop("include", None)
    if path.resolve() in above:
        raise UserError(f"{path} includes itself: leave the include out")
    if included is None:
        return content, lines
    file = path.parent / str(included)
    if not file.is_file():
        raise UserError(
            f"{path}:{lines['include']}: include {included} is not there: name a file beside it"
        )
    below, _ = _read(file, (*above, path.resolve()))
    return below | content, lines
