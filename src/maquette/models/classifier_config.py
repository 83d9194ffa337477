"""The config fields of every picture classifier: its label factors; needs no torch."""

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from maquette.base.errors import WrongUse
from maquette.models.picture_config import PictureConfig


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(PictureConfig):
    """The shape of a picture classifier; each kind adds its own fields."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    classes: tuple[int, ...] = (6, 4, 6, 4, 2)
    """number of classes of each label factor of the data"""
    labels: tuple[int, ...] = ()
    """indices of the label factors that are learned, from 0; none: all"""
    task: str = ""
    """name of the task; a run that starts from a run of another task has new heads"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.classes:
            raise WrongUse(
                "classes is empty: give the classes of each label factor, as in 6 4 6 4 2"
            )
        for i in self.labels:
            if not 0 <= i < len(self.classes):
                raise WrongUse(
                    f"labels names factor {i}: there are {len(self.classes)} classes, from 0 on"
                )
        if min(self.read_classes) < 2:
            raise WrongUse(
                f"classes is {list(self.classes)}: a label factor that is learned has at least 2"
            )
        if not re.fullmatch(r"[a-z0-9-]*", self.task):
            raise WrongUse(f"task is {self.task!r}: use small letters, digits and hyphens")

    @property
    def read(self) -> tuple[int, ...]:
        """Indices of the label factors that are learned."""
        return self.labels or tuple(range(len(self.classes)))

    @property
    def read_classes(self) -> tuple[int, ...]:
        """Number of classes of each factor that is learned."""
        return tuple(self.classes[i] for i in self.read)

    def head_names(self) -> list[str]:
        """A name for the head of each factor that is learned."""
        return [f"{self.task}-{i}".removeprefix("-") for i in self.read]
