"""Continue the training of a language model on one's own documents, and measure what came of it.

    adapt_continue(Path("runs/first"), ["notes/"], Path("runs/mine"), ContinueOptions())

What comes out is an ordinary run that begins with the base's weights; `adaptation.json` has bits per byte
of held-out documents and of the base's own held-out text, before and after.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from maquette.adaptation.continued import ContinueOptions, continued_recipe
from maquette.adaptation.methods import count
from maquette.base.errors import UserError
from maquette.corpus.progress import Progress, silent
from maquette.corpus.read import files
from maquette.corpus.text.build import build
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.named import BUILT, open_corpus
from maquette.corpus.text.store import MANIFEST, TOKENIZER, Corpus
from maquette.corpus.tokenizer import Tokenizer, load_tokenizer
from maquette.training.datasets.text_config import TextData
from maquette.training.observer import Observer
from maquette.training.recipe import LanguageRecipe, language
from maquette.training.run import RECIPE, RunDirectory
from maquette.training.run_corpus import text_of
from maquette.workshop.adapt_data import HELDOUT
from maquette.workshop.adapt_resume import asked_of, built_as, is_built, tidy
from maquette.workshop.adapt_text import (
    SEQUENCE,
    AdaptedText,
    language_base,
    own_corpus,
    run_adaptation,
)


@tidy(RECIPE)
def adapt_continue(
    run: Path,
    sources: Sequence[str],
    path: Path,
    options: ContinueOptions,
    *,
    resume: bool = False,
    observer: Observer | None = None,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda text: None,
) -> AdaptedText:
    """Go on with the language model of `run` on documents; the new run is `path`.

    sources: files and folders, of which a corpus is built beside the run, or one corpus of text. resume:
    whether a run that was cut off goes on. Raises UserError where what is to be replayed is not there.
    """
    start, config = language_base(run, path, resume)
    if options.replay:
        _check_replay(start)
    tokenizer = load_tokenizer(start / TOKENIZER)
    corpus = documents_of(
        sources, path.with_name(f"{path.name}-corpus"), tokenizer, resume=resume, progress=progress
    )
    before = _recipe_of(start)
    sequence = options.sequence or min(config.context, SEQUENCE)
    mask = before is not None and getattr(before.data, "document_mask", False)
    data = TextData(corpus=str(corpus.path), sequence=sequence, document_mask=mask)
    tokens = len(corpus.train)
    recipe = continued_recipe(options, start, config, before, data, tokens)
    if recipe.batch < options.batch:
        say(f"batch {recipe.batch}: the documents have {tokens:,} tokens for training, no more")
    passes = recipe.steps * recipe.units_per_step * (1 - options.replay) / tokens
    say(
        f"{recipe.steps} steps: {passes:.1f} passes over {tokens:,} tokens, {100 * options.replay:g} % of "
        f"the sequences replayed, learning rate {recipe.optimiser.learning_rate:g}"
    )
    return run_adaptation(
        recipe, path, "continue", "full", count(config, None), own_corpus(start, say),
        resume=resume, observer=observer, progress=progress,
    )  # fmt: skip


def documents_of(
    sources: Sequence[str],
    out: Path,
    tokenizer: Tokenizer,
    *,
    resume: bool = False,
    progress: Progress = silent,
) -> Corpus:
    """One corpus of text by its folder or name, or the corpus `out`, built of files and folders.

    resume: whether `out` is taken where it was built of the same; WrongUse where it is in the way.
    """
    if len(sources) == 1:
        source = Path(sources[0]).expanduser()
        if sources[0] in BUILT or (source / MANIFEST).exists():
            return open_corpus(sources[0], progress)
    for name in sources:
        if not Path(name).expanduser().exists():
            raise UserError(f"{name} does not exist: name documents, folders of them, or a corpus")
    if not is_built(out, asked := asked_of(sources), resume):
        with built_as(out, asked) as place:
            options = BuildOptions(heldout=HELDOUT)
            build(place, files(sources), options, tokenizer=tokenizer, progress=progress)
    return open_corpus(str(out), progress)


def _check_replay(start: Path) -> None:
    try:
        text_of(RunDirectory(start))
    except UserError as error:
        raise UserError(
            f"nothing can be replayed ({error}): or go on without replay, with --replay 0"
        ) from error


def _recipe_of(start: Path) -> LanguageRecipe | None:
    run = RunDirectory(start)
    return language(run.recipe()) if (run / RECIPE).exists() else None
