"""The workshop's jobs for examples, also those of preferences and questions: a sample answers a prompt."""

from pathlib import Path

from maquette.corpus.examples.chat_template import template_of
from maquette.corpus.examples.store import ExamplesCorpus
from maquette.corpus.examples.template import Template
from maquette.training.observer import Observer
from maquette.training.recipe import Recipe, language
from maquette.training.run import RunDirectory
from maquette.training.run_corpus import corpus_of
from maquette.workshop.load import Loaded, load
from maquette.workshop.text_samples import TextSamples


class ExamplesKind:
    """See `kinds.WorkshopKind`."""

    def samples(self, run: RunDirectory, observer: Observer) -> Observer:
        return TextSamples(run, observer, heldout_prompt(run))

    def load(self, folder: Path, base: str | Path | None = None) -> Loaded:
        return load(folder, base)

    def finish(self, path: Path) -> None:
        """Do nothing: portraits and traces are of a corpus of documents."""

    def next_command(self, recipe: Recipe, path: Path) -> str:
        return f"maquette eval {path}"


EXAMPLES = ExamplesKind()


def heldout_prompt(run: RunDirectory) -> str:
    """The first held-out prompt that leaves a sample its room, as the template writes it; "": none."""
    corpus, recipe = corpus_of(run), language(run.recipe())
    assert isinstance(corpus, ExamplesCorpus)
    template = template_of(corpus.manifest["template"], corpus.tokenizer)
    if not isinstance(template, Template):
        return ""  # its special tokens are none in a prompt of text
    for example in corpus.examples("heldout"):
        context = template.context(example.prompt)
        length = len(corpus.tokenizer.encode_prompt(context))
        if not example.history and length + recipe.watch.sample_tokens <= recipe.model.context:
            return context
    return ""
