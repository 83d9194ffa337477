"""Recipe fields as flags, by tyro; its boxed complaints become one line with the nearest name."""

import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from maquette.base.errors import WrongUse, did_you_mean

if TYPE_CHECKING:
    from maquette.training.recipe import Recipe

    R = TypeVar("R", bound=Recipe)

EXAMPLES = {  # a recipe of each kind of model
    "decoder": "tiny",
    "smlp": "smlp-small",
    "vit": "vit",
    "cnn": "cnn",
    "clip": "clip",
    "diffusion": "diffusion",
    "prior": "dalle2-prior",
    "super_resolution": "super-resolution",
}


def with_flags(recipe: "R", words: Sequence[str]) -> "R":
    """The recipe with the fields that the flags name replaced.

    Raises WrongUse for an unknown flag (with the nearest), a value of the wrong type, or a recipe
    that cannot be.
    """
    import tyro

    from maquette.training.recipe import field_names

    recipe = _with_adapter(_on_corpus(_with_data_kind(recipe, words), words), words)
    names = {name.replace("_", "-") for name in field_names(recipe)}
    for word in words:
        flag = word.partition("=")[0].removeprefix("--").replace("_", "-")
        if word.startswith("--") and flag not in names and flag.removeprefix("no-") not in names:
            no = flag.split(".")
            bare = ".".join([*no[:-1], no[-1].removeprefix("no-")])  # --data.no-document-mask
            if bare not in names:
                raise WrongUse(f"unknown field --{flag}{did_you_mean(flag, names)}")
        elif not word.startswith("-") and word == words[0]:
            raise WrongUse(f"unexpected {word}: a field is set with --name value")
    _check_kind(recipe, words)
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output):
            return tyro.cli(  # type: ignore[no-any-return]
                _class_of(recipe),
                default=recipe,
                args=list(words),
                prog="maquette train RECIPE",
                config=(tyro.conf.AvoidSubcommands,),
            )
    except SystemExit as error:
        if not error.code:
            raise
        raise WrongUse(_first_paragraph(output.getvalue())) from None


def show_fields(recipe: "Recipe") -> None:
    """Print every field with its meaning and the recipe's value."""
    import tyro

    with contextlib.suppress(SystemExit):
        tyro.cli(
            _class_of(recipe),
            default=recipe,
            args=["--help"],
            prog="maquette train RECIPE",
            config=(tyro.conf.AvoidSubcommands,),
        )


def _class_of(recipe: "Recipe") -> Any:
    """The recipe's class with the classes that its model, data, watch and adapter have."""
    from maquette.training.recipe import Recipe

    data = recipe.data.of_corpus(recipe.data.corpus)
    adapter = type(recipe.adapter)
    return Recipe[type(recipe.model), data, type(recipe.watch), adapter]  # type: ignore[misc]


def _on_corpus(recipe: "R", words: Sequence[str]) -> "R":
    """The recipe on the corpus that a flag names, on which the fields of its data may depend."""
    for word, following in pairwise([*words, ""]):
        flag, equals, value = word.partition("=")
        if flag == "--data.corpus" and (value := value if equals else following):
            recipe = replace(recipe, data=recipe.data.with_corpus(value))
    return recipe


def _with_data_kind(recipe: "R", words: Sequence[str]) -> "R":
    """The recipe with the kind of data that a flag names; fields that both kinds have stay.

    Its corpus is of another kind, so the new kind's own default takes its place.
    """
    from maquette.training.datasets.config import data_kind

    for word, following in pairwise([*words, ""]):
        flag, sign, value = word.partition("=")
        value = value if sign else following
        if flag != "--data.kind" or value == recipe.data.kind:
            continue
        kind, old = data_kind(value), recipe.data
        if kind.modality != old.modality:
            raise WrongUse(
                f"--data.kind {value}: a {recipe.model.kind} learns from {recipe.model.learns_from}"
            )
        both = {f.name for f in fields(old)} & {f.name for f in fields(kind)}
        kept = {name: getattr(old, name) for name in both - {"kind", "corpus"}}
        return replace(recipe, data=kind(**kept))
    return recipe


def _with_adapter(recipe: "R", words: Sequence[str]) -> "R":
    """The recipe with the kind of adapter that a flag names, and the options of that kind."""
    from maquette.adaptation.adapters.config import adapter_kind

    for word, following in pairwise([*words, ""]):
        flag, sign, value = word.partition("=")
        value = value if sign else following
        if flag == "--adapter.kind" and getattr(recipe.adapter, "kind", "") != value:
            recipe = replace(recipe, adapter=adapter_kind({"kind": value})())
    return recipe


def _check_kind(recipe: "Recipe", words: Sequence[str]) -> None:
    """Raise WrongUse for a flag that would make the recipe's model another kind of model."""
    from maquette.models.registry import kind_of

    for word, following in pairwise([*words, ""]):
        flag, _, value = word.partition("=")
        value = value or following
        if flag != "--model.kind" or value in ("", recipe.model.kind) or value.startswith("--"):
            continue
        kind = kind_of({"kind": value}).kind
        example = EXAMPLES.get(kind, "a recipe of it")
        raise WrongUse(
            f"--model.kind {kind}: {recipe.name} is a {recipe.model.kind}, and no flag makes it another "
            f"kind: write model: {{kind: {kind}}} in a recipe's YAML, or train {example}"
        )


def _first_paragraph(box: str) -> str:
    """The complaint inside tyro's frame: after its title, before the next ruled line.

    The frame is drawn in ASCII where the terminal knows no other.
    """
    lines: list[str] = []
    for line in box.splitlines()[1:]:
        text = line.strip("│╭╮╰╯|+ ")
        if not text or re.search("[─-]{3}", text):
            if lines:
                break
            continue
        lines.append(text)
    return " ".join(lines).replace("Error parsing ", "") or "the flags cannot be read"
