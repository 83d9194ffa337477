"""Open a run for a conversation: its model, and the template that it learnt to answer in."""

from pathlib import Path

from maquette.base.errors import WrongUse
from maquette.corpus.examples.chat_template import CHAT_TEMPLATE, own_template, template_of
from maquette.corpus.examples.store import KIND
from maquette.corpus.examples.template import ConversationTemplate, Template
from maquette.corpus.text.store import TOKENIZER
from maquette.corpus.tokenizer import Tokenizer, load_tokenizer
from maquette.serving.chat import Chat
from maquette.serving.sampler import Sampling
from maquette.training.run import CORPUS, RECIPE, RunDirectory
from maquette.training.run_corpus import kept_corpus
from maquette.workshop.load import Loaded

NOT_LEARNT = (
    "this run has not learnt to answer, it goes on with what it reads: tune it with maquette adapt, "
    "or make one that answers with maquette demo --chat"
)


def learnt_template(run: Path) -> str | None:
    """The template that a run's examples were written in, or those of the run it began with; None: none.

    Of an imported model that is the template of its files.
    """
    for _ in range(16):  # runs that began with runs
        if (run / CORPUS).exists():
            table = kept_corpus(RunDirectory(run)).get("table", {})
            if table.get("kind") == KIND:
                return str(table["template"])
        if (run / CHAT_TEMPLATE).exists():
            return (run / CHAT_TEMPLATE).read_text(encoding="utf-8")
        start = RunDirectory(run).recipe().start if (run / RECIPE).exists() else None
        if not start:
            break
        run = Path(start)
    return None


def template_for(run: Path, given: str | None, otherwise: str = Template.text) -> str:
    """The template of examples that a run is to learn: the given one, the one it learnt, or `otherwise`."""
    return given or learnt_template(run) or otherwise


def chat_template(run: Path, tokenizer: Tokenizer) -> tuple[ConversationTemplate, bool]:
    """How conversations with a run's model are written, and whether it learnt to answer so."""
    learnt = learnt_template(run)
    if learnt is None and "chat_template" in tokenizer.special.settings:
        learnt = own_template(tokenizer)
    template = template_of(own_template(tokenizer) if learnt is None else learnt, tokenizer)
    return template, learnt is not None


def exported_template(run: Path) -> str | None:
    """The template that a run learnt, as Hugging Face's `chat_template` writes one; None: none."""
    learnt = learnt_template(run)
    if learnt is None:
        return None
    return template_of(learnt, load_tokenizer(run / TOKENIZER)).jinja()


def open_chat(
    loaded: Loaded, *, system: str = "", tokens: int | None = None, sampling: Sampling | None = None
) -> tuple[Chat, bool]:
    """A conversation with a run's model, and whether it learnt to answer; see `Chat`.

    Raises UserError for a template that cannot write a conversation, WrongUse for more tokens than fit.
    """
    context = loaded.model.config.context
    if tokens is not None and not 1 <= tokens < context:
        raise WrongUse(
            f"tokens is {tokens}: the model's context is {context}, use 1 to {context - 1}"
        )
    template, learnt = chat_template(loaded.path, loaded.tokenizer)
    template.conversation([("Hello", "Hi there")], "Who are you?", loaded.tokenizer, system)
    chat = Chat(loaded.model, loaded.tokenizer, template, system, tokens, sampling or Sampling())
    return chat, learnt
