"""The judge of answers: whether a text gives the result of the right one, whatever its letters and spaces."""


def result_of(text: str, after: str = "") -> str | None:
    """The text after the last `after`, in small letters, white space as one space.

    None where `after` does not occur.
    """
    _, mark, rest = text.rpartition(after) if after else ("", "-", text)
    return " ".join(rest.split()).casefold() if mark else None


def is_right(text: str, answer: str, after: str = "") -> bool:
    """Whether a text gives the result of the right answer, which may be the result alone, without `after`."""
    return result_of(text, after) == result_of(answer, after if after in answer else "")
