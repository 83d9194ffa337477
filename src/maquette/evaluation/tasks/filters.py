"""What is made of generated answers before they are compared: lm-evaluation-harness' filters.

A filter takes the answers to every question, as many as the task repeats it, and gives as many or fewer.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

Filter = Callable[[list[str]], list[str]]


def regex(
    regex_pattern: str = r"#### (\-?[0-9\.\,]+)", group_select: int = 0, fallback: str = "[invalid]"
) -> Filter:
    """What the expression finds: of several finds, the one of that number."""
    try:
        compiled = re.compile(regex_pattern)
    except re.error as error:
        raise ValueError(f"regex_pattern {regex_pattern} is no expression ({error})") from error

    def one(text: str) -> str:
        found: list[Any] = compiled.findall(text)
        if not -len(found) <= group_select < len(found):
            return fallback
        match = found[group_select]
        if isinstance(match, tuple):
            match = next((part for part in match if part), fallback)
        return str(match).strip()

    return lambda texts: [one(text) for text in texts]


def take_first() -> Filter:
    """The first answer."""
    return lambda texts: texts[:1]


def take_first_k(k: int) -> Filter:
    """The first k answers."""
    return lambda texts: texts[:k]


def majority_vote() -> Filter:
    """The answer that is given most often."""
    return lambda texts: [Counter(texts).most_common(1)[0][0]]


def remove_whitespace() -> Filter:
    """Without spaces around it."""
    return lambda texts: [text.strip() for text in texts]


def lowercase() -> Filter:
    """In small letters."""
    return lambda texts: [text.lower() for text in texts]


def uppercase() -> Filter:
    """In capital letters."""
    return lambda texts: [text.upper() for text in texts]


def mapped(mapping_dict: Mapping[str, str], default_value: str = "") -> Filter:
    """What stands for the answer in a table."""
    return lambda texts: [str(mapping_dict.get(text, default_value)) for text in texts]


FILTERS: dict[str, Callable[..., Filter]] = {
    "regex": regex,
    "take_first": take_first,
    "take_first_k": take_first_k,
    "majority_vote": majority_vote,
    "remove_whitespace": remove_whitespace,
    "lowercase": lowercase,
    "uppercase": uppercase,
    "map": mapped,
}
