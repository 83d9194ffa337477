"""Chat templates: how a conversation is written for a model that has a format of its own.

    Q: {prompt}\\nA: {answer}                              Maquette's own (template.py)
    {% for message in messages %}<|im_start|>{{ ...      Jinja2, as Hugging Face's `chat_template`

A Jinja template is another model's, and is run in Jinja's sandbox with the names that transformers gives it.
The names of special tokens in what it writes are these tokens, in a user's words, too, as they are there.
Of an example it is asked twice an exchange, up to where the answer begins and with the answer: the second
text must go on from the first.
"""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from maquette.base.errors import UserError
from maquette.corpus.examples.template import ConversationTemplate, Template, Turn
from maquette.corpus.foreign_tokenizer import Foreign
from maquette.corpus.special_tokens import token_name
from maquette.corpus.tokenizer import EOS_TOKEN, Tokenizer

CHAT_TEMPLATE = "chat_template.jinja"
"""file of a chat template, by the name that Hugging Face gives it"""
CHAT = "chat"
"""name of the template that fits a model's own tokenizer"""
QUESTIONS = "Q: {prompt}\nA: {answer}"
"""Maquette's own: two short marks, as GPT-3's arithmetic asks"""
IM_START, IM_END = "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SHOWN = 60  # characters of a text in a message


@dataclass(frozen=True)
class JinjaTemplate:
    """A chat template in Jinja2. Raises UserError for one that cannot be read."""

    text: str

    @property
    def stop(self) -> tuple[str, ...]:
        """None: an answer ends with a token."""
        return ()

    def __post_init__(self) -> None:
        _compiled(self.text)

    def turns(self, exchanges: Sequence[tuple[str, str]], tokenizer: Tokenizer) -> list[Turn]:
        """The tokens of every exchange; what stands behind the end of an answer belongs to the next context.

        Raises UserError where the template renders nothing, loses a prompt or an answer, or writes another
        text before an answer than where it is asked for one.
        """
        turns: list[Turn] = []
        messages: list[dict[str, str]] = []
        done, behind = "", list[int]()
        for prompt, answer in exchanges:
            messages += [{"role": "user", "content": prompt}]
            context = self.render(messages, tokenizer, ask=True)
            messages += [{"role": "assistant", "content": answer}]
            whole = self.render(messages, tokenizer)
            if not (context.startswith(done) and whole.startswith(context)):
                raise UserError(
                    f"the chat template does not go on after {context[-SHOWN:]!r} with the answer: its "
                    f"text of the whole exchange is another"
                )
            if answer.strip() not in whole[len(context) :]:
                raise UserError(
                    f"the chat template loses the answer {answer[:SHOWN]!r}: it writes "
                    f"{whole[len(context) :][:SHOWN]!r}"
                )
            learned = tokenizer.encode_marked(whole[len(context) :])
            ends = tokenizer.special.eos_token_ids
            at = next((i + 1 for i, token in enumerate(learned) if token in ends), None)
            end = [] if at or tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
            context_tokens = [*behind, *tokenizer.encode_marked(context[len(done) :])]
            turns.append((context_tokens, [*learned[:at], *end]))
            behind, done = learned[at:] if at else [], whole
        return turns

    def conversation(
        self,
        history: Sequence[tuple[str, str]],
        prompt: str,
        tokenizer: Tokenizer,
        system: str = "",
    ) -> list[int]:
        """The tokens that a model is given to answer `prompt`, as transformers' `apply_chat_template`."""
        messages = [{"role": "system", "content": system}] if system else []
        for asked, answer in history:
            messages += [
                {"role": "user", "content": asked},
                {"role": "assistant", "content": answer},
            ]
        messages.append({"role": "user", "content": prompt})
        text = self.render(messages, tokenizer, ask=True)
        if history and history[-1][1].strip() not in text:
            raise UserError(f"the chat template loses the answer {history[-1][1][:SHOWN]!r}")
        return tokenizer.encode_marked(text)

    def read(self, prompt: str, written: str) -> str:
        """The answer in what a model wrote; the spaces around it are the template's."""
        return written.strip()

    def jinja(self) -> str:
        return self.text

    def render(
        self, messages: Sequence[dict[str, str]], tokenizer: Tokenizer, ask: bool = False
    ) -> str:
        """The text of a conversation; ask: up to where an answer begins."""
        from jinja2 import TemplateError

        try:
            text = _compiled(self.text).render(
                messages=list(messages), add_generation_prompt=ask, tools=None, documents=None,
                **_names(tokenizer),
            )  # fmt: skip
        except TemplateError as error:
            raise UserError(f"the chat template refuses the conversation: {error}") from error
        except (TypeError, ValueError, AttributeError, KeyError, ArithmeticError) as error:
            raise UserError(f"the chat template fails: {error}") from error
        if not text.strip():
            raise UserError("the chat template renders nothing: mend it, or give another")
        asked = next(m["content"] for m in reversed(messages) if m["role"] == "user")
        if asked.strip() not in text:
            raise UserError(f"the chat template loses the prompt {asked[:SHOWN]!r}")
        return str(text)


def template_of(text: str, tokenizer: Tokenizer) -> ConversationTemplate:
    """The template of a text: with {prompt} and {answer}, in Jinja2, or "chat": what fits the tokenizer."""
    if text == CHAT:
        text = own_template(tokenizer)
    return JinjaTemplate(text) if "{{" in text or "{%" in text else Template(text)


def own_template(tokenizer: Tokenizer) -> str:
    """The chat template of the tokenizer's files; else by its special tokens; else `QUESTIONS`."""
    known = tokenizer.special.settings.get("chat_template")
    if isinstance(known, list):  # several, by name
        named = {one.get("name"): one.get("template") for one in known if isinstance(one, dict)}
        known = named.get("default", next(iter(named.values()), None))
    if isinstance(known, str) and known:
        return known
    ends = tokenizer.special.eos_token_ids
    marked = isinstance(tokenizer, Foreign) and tokenizer.has(IM_START)
    if marked and any(tokenizer.decode([end]) == IM_END for end in ends):
        return CHATML
    return QUESTIONS


@functools.cache
def _compiled(text: str) -> Any:
    """The template, in a sandbox with what transformers offers to one."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(
        value, ensure_ascii=False, indent=options.get("indent")
    )
    environment.globals["raise_exception"] = _refuse
    try:
        return environment.from_string(text)
    except TemplateError as error:
        raise UserError(f"the chat template is none: {error}") from error


def _refuse(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _names(tokenizer: Tokenizer) -> dict[str, str]:
    """The names of special tokens that a template may write."""
    if not isinstance(tokenizer, Foreign):
        return {"bos_token": EOS_TOKEN, "eos_token": EOS_TOKEN}
    special = tokenizer.special
    names = {
        key: name
        for key, value in special.settings.items()
        if key.endswith("_token") and (name := token_name(value)) is not None
    }
    for key, token in (("bos_token", special.bos_token_id), ("eos_token", special.eos_token_id)):
        if token is not None:
            names.setdefault(key, tokenizer.name(token) or "")
    return {"bos_token": "", "eos_token": ""} | names
