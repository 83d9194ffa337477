"""Answers to many prompts: batched by length, a beginning that the prompts of a batch share run once."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from maquette.base.errors import UserError
from maquette.corpus.tokenizer import Tokenizer
from maquette.models.base import LanguageModel
from maquette.nn.attention import LayerCache
from maquette.serving.generate import continue_tokens
from maquette.serving.restrict import Answers, Grammars, Restriction
from maquette.serving.sampler import Sampling

BATCHES = 32, 256  # prompts at a time, at the least and at the most
BYTES = 1 << 29  # of keys and values of a batch beyond the least one
LEAST_SHARED = 8  # tokens that are worth being run once
MOST_TOKENS = 256  # of an answer, where the task does not say


def generate_answers(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[int]],
    kwargs: Mapping[str, Any],
    *,
    until: Sequence[str],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[str], int]:
    """What follows every prompt, and how many prompts lost their first tokens.

    prompts: texts, or the tokens of conversations. kwargs: as a task's generation_kwargs; `restrict` may be a
    list of choices for every prompt. Raises UserError where max_gen_toks leaves a prompt no room.
    """
    context = model.config.context
    most = int(kwargs.get("max_gen_toks", min(MOST_TOKENS, context // 2)))
    room = context - most
    if room < 1:
        raise UserError(
            f"max_gen_toks is {most}, and the model's context {context}: ask for at most {context // 2}"
        )
    encoded = [
        tokenizer.encode_prompt(prompt) if isinstance(prompt, str) else list(prompt)
        for prompt in prompts
    ]
    cut = sum(len(tokens) > room for tokens in encoded)
    encoded = [tokens[-room:] for tokens in encoded]
    answers_of = _answers(kwargs.get("restrict"), len(prompts))
    grammars = Grammars(tokenizer, model.config.vocabulary) if answers_of else None
    order = sorted(range(len(prompts)), key=lambda i: (len(encoded[i]), encoded[i]), reverse=True)
    results = [""] * len(prompts)
    first = 0
    while first < len(order):  # the longest come first
        chosen = order[first : first + _rows(model, len(encoded[order[first]]) + most)]
        batch = [encoded[i] for i in chosen]
        shared = min(_common(batch), min(map(len, batch)) - 1)
        restriction = None
        if grammars is not None:
            restriction = Restriction(grammars, [answers_of[i] for i in chosen])
        written, _ = continue_tokens(
            model,
            tokenizer,
            batch,
            tokens=most,
            sampling=_sampling(kwargs, chosen),
            stop=until,
            shared=shared if shared >= LEAST_SHARED and len(batch) > 1 else 0,
            restriction=restriction,
        )
        for i, one in zip(chosen, written, strict=True):
            results[i] = one.text
        first += len(chosen)
        progress(first, len(order))
    return results, cut


def _rows(model: LanguageModel, positions: int) -> int:
    """How many prompts are run at a time, of so many positions each with their answers."""
    least, most = BATCHES
    numbers = sum(
        layer.keys.numel() + layer.values.numel()
        for layer in model.cache(1, 1)
        if isinstance(layer, LayerCache)
    )
    if not numbers:  # an architecture with another kind of cache
        return least
    return max(least, min(most, BYTES // (numbers * model.compute.itemsize * positions)))


def _common(rows: Sequence[Sequence[int]]) -> int:
    """How many first tokens all rows have in common."""
    count = 0
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        count += 1
    return count


def _sampling(kwargs: Mapping[str, Any], numbers: Sequence[int]) -> Sampling:
    """Greedy, unless a temperature is given; each prompt's random numbers come from its number."""
    temperature = float(kwargs.get("temperature", 1.0 if kwargs.get("do_sample") else 0.0))
    if kwargs.get("do_sample") is False:
        temperature = 0.0
    return Sampling(
        temperature=temperature,
        top_k=kwargs.get("top_k"),
        top_p=kwargs.get("top_p"),
        seeds=tuple(numbers),
    )


def _answers(restrict: Any, count: int) -> list[Answers]:
    """What every answer is held to; empty: nothing."""
    if restrict is None:
        return []
    if isinstance(restrict, list):
        return [Answers(choices) for choices in restrict]
    if "regex" in restrict:
        return [Answers(regex=restrict["regex"])] * count
    schema = restrict["schema"]
    return [Answers(schema=schema if isinstance(schema, str) else json.dumps(schema))] * count
