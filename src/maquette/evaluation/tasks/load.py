"""Open a task by its name or its file."""

from collections.abc import Sequence
from pathlib import Path

from maquette.base.errors import WrongUse, did_you_mean
from maquette.evaluation.tasks.config import TaskConfig, read_task
from maquette.evaluation.tasks.data import Record, read_splits
from maquette.evaluation.tasks.task import SEED, Task

YAML = (".yaml", ".yml")


def open_task(name: str, seed: int = SEED) -> Task:
    """A task file, or a task that is built in. Raises WrongUse for a name that is none.

    seed: of the examples that a built-in task shows.
    """
    path = Path(name).expanduser()
    if path.suffix in YAML and path.is_file():
        return task_from(read_task(path))
    from maquette.evaluation.tasks.builtin import builtin_task, task_names

    if name not in task_names():
        raise WrongUse(f"{name} is no task and no file{did_you_mean(name, task_names())}")
    return builtin_task(name, seed=seed)


def is_task(name: str) -> bool:
    """Whether a name is a task's: a task file, or no file at all."""
    path = Path(name).expanduser()
    return path.suffix in YAML or not path.exists()


def task_from(config: TaskConfig) -> Task:
    """A task with the records that its config names."""
    splits = read_splits(config)

    def records(name: str, split: str) -> list[tuple[Record, str]]:
        if split not in splits:
            config.fault(
                name, f"is {split}, which data_files does not name: it names {', '.join(splits)}"
            )
        return splits[split]

    asking = "test_split" if config.test_split else "validation_split"
    asked_split = config.test_split or config.validation_split
    if asked_split is None:
        config.fault("test_split", "is missing: name the split of data_files that is asked")
    asked = records(asking, asked_split)
    few = config.fewshot_config
    shown_split = few.split or config.fewshot_split
    shown: Sequence[tuple[Record, str]]
    if shown_split is not None:
        shown = records("fewshot_split", shown_split)
    elif few.samples is not None:
        return Task(config, asked, [(sample, "fewshot_config") for sample in few.samples])
    else:
        name = next(
            n for n in ("training_split", "validation_split", "test_split") if getattr(config, n)
        )
        shown_split = str(getattr(config, name))
        shown = records(name, shown_split)
    return Task(config, asked, shown, same_pool=shown_split == asked_split)
