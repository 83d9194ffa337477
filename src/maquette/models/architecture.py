"""The base of all configs: it names the model's class, so that no config imports a model."""

from typing import Any, ClassVar

from maquette.base.named import named


class Architecture:
    """A config's half of an architecture.

    model_class: "module.Class" of the model, which is made of the config alone. learner: how it is
    trained, a key of `training.learner.LEARNERS`. learns_from: the `modality` of its data, and the
    `data.kind` of a recipe that names none.
    """

    model_class: ClassVar[str]
    learner: ClassVar[str] = "single"
    learns_from: ClassVar[str] = "text"

    def build(self) -> Any:
        """The model, its parameters not yet filled."""
        return named(self.model_class)(self)
