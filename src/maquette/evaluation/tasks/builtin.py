"""Tasks that are built in: the worlds of questions (`worlds/questions`), asked on their held-out side.

The examples that are shown are of the training side, the same for every question, so that they are run
once; where a question has examples of its own (a map that is to be found), those.
"""

from typing import Any

from maquette.evaluation.tasks.config import task_config
from maquette.evaluation.tasks.task import SEED, Task
from maquette.worlds.questions.registry import Asked, question_world, question_worlds

QUESTIONS, SHOWN = 500, 64
CLEAN = [
    {"name": "none", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}
]


def task_names() -> list[str]:
    """The names of the built-in tasks."""
    return list(question_worlds())


def builtin_task(name: str, count: int = QUESTIONS, seed: int = SEED) -> Task:
    """The task of that name, of so many questions, always the same. seed: of the examples shown."""
    world = question_world(name)
    asked = world.questions(count)
    chosen = bool(asked[0].choices)
    usual: dict[str, Any] = {
        "task": name,
        "output_type": "multiple_choice" if chosen else "generate_until",
        "doc_to_text": "question",
        "doc_to_target": "answer",
        "doc_to_choice": "choices" if chosen else None,
        "fewshot_config": {"sampler": "first_n"},
    }
    if not chosen:
        usual["filter_list"] = CLEAN
    config = task_config(usual | dict(world.fields), name)
    own = (
        [[(_record(*pair), "") for pair in one.shown] for one in asked] if asked[0].shown else None
    )
    shown = [] if own else [(_shown(one), "") for one in world.questions(SHOWN, seed, "train")]
    return Task(config, [(_asked(one), "") for one in asked], shown, question_examples=own)


def _asked(one: Asked) -> dict[str, Any]:
    return {"question": one.question, "answer": one.answer, "choices": list(one.choices)}


def _shown(one: Asked) -> dict[str, Any]:
    """What is shown has choices too, of which its answer is one."""
    return _asked(one) if one.choices else _record(one.question, one.answer)


def _record(question: str, answer: str) -> dict[str, Any]:
    return {"question": question, "answer": answer, "choices": [answer]}
