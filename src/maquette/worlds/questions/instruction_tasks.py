"""Tasks on words and numbers that instructions ask for: what each is, how it is asked, its right answer.

A task is of a cluster (tasks of one cluster are alike), takes an argument of one kind and gives a result of
another. A phrasing is a text with {x}, which stands for what the task is done to ("this word"); those that
begin with a verb can also be a part of a composition. All tasks are exact, so that an answer is right or
wrong, and so is an instruction that a model wrote (`instruction_oracle.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

from maquette.worlds.questions.words import WORDS

Kind = Literal["word", "words", "number", "numbers", "letters", "yes or no"]
NOUNS: dict[Kind, tuple[str, ...]] = {
    "word": ("this word", "the word", "the given word"),
    "words": ("these words", "the words", "the given words"),
    "number": ("this number", "the number", "the given number"),
    "numbers": ("these numbers", "the numbers", "the given numbers"),
}
"""what stands for {x}, by the kind of the argument"""
QUESTIONS = ("what", "which", "how", "is", "does")
"""first words of phrasings that cannot be a part of a composition"""
VOWELS = "aeiou"
SHORT = tuple(word for word in WORDS if len(word) <= 5)
BY_LENGTH = {n: tuple(word for word in WORDS if len(word) == n) for n in (4, 5, 6, 7)}
PALINDROMES = (
    "anna civic kayak level madam noon otto peep radar refer rotor sagas solos stats".split()
)


@dataclass(frozen=True)
class InstructionTask:
    """One task. answer: the right answer to an argument."""

    name: str
    cluster: str
    takes: Kind
    gives: Kind
    answer: Callable[[str], str]
    phrasings: tuple[str, ...]

    def argument(self, draw: Random) -> str:
        """An argument of the task's kind."""
        if self.takes == "word":
            asked = self.name == "is_palindrome" and draw.random() < 0.5
            return draw.choice(PALINDROMES if asked else SHORT)
        if self.takes == "words":
            count = draw.choice((2, 3))
            if self.cluster == "length":  # no two are as long
                lengths = draw.sample(list(BY_LENGTH), count)
                return " ".join(draw.choice(BY_LENGTH[length]) for length in lengths)
            return " ".join(draw.sample(SHORT, count))
        if self.takes == "number":
            return str(draw.randrange(1, 60))
        return " ".join(map(str, draw.sample(range(1, 30), 3)))

    def accepts(self, argument: str) -> bool:
        """Whether a text is an argument of the task's kind."""
        parts = argument.split(" ")
        if self.takes in ("word", "words"):
            fits = all(part.isascii() and part.isalpha() for part in parts)
        else:
            fits = all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts)
        return fits and (len(parts) == 1) == (self.takes in ("word", "number"))


def _each(change: Callable[[str], str]) -> Callable[[str], str]:
    return lambda x: " ".join(map(change, x.split()))


def _numbers(change: Callable[[list[int]], int]) -> Callable[[str], str]:
    return lambda x: str(change([int(part) for part in x.split()]))


def _whether(test: Callable[[str], bool]) -> Callable[[str], str]:
    return lambda x: "yes" if test(x) else "no"


def _listed(change: Callable[[list[str]], list[str]]) -> Callable[[str], str]:
    return lambda x: " ".join(change(x.split()))


def _tasks(cluster: str, *rows: tuple[str, Kind, Kind, Callable[[str], str], str]) -> None:
    for name, takes, gives, answer, phrasings in rows:
        texts = tuple(text.strip() for text in phrasings.strip().splitlines())
        TASKS[name] = InstructionTask(name, cluster, takes, gives, answer, texts)


TASKS: dict[str, InstructionTask] = {}
"""all tasks by name, cluster by cluster"""
_tasks(
    "reversal",
    ("reverse_letters", "word", "word", lambda x: x[::-1],
     """reverse the letters of {x}
        spell {x} backwards
        write {x} from its last letter to its first
        read {x} from right to left
        what is {x} spelled backwards?
        turn {x} around letter by letter"""),
    ("reverse_words", "words", "words", _listed(lambda x: x[::-1]),
     """reverse the order of {x}
        write {x} in the opposite order
        list {x} backwards
        begin with the last of {x} and end with the first
        what are {x} in reverse order?
        turn the order of {x} around"""),
)  # fmt: skip
_tasks(
    "capitals",
    ("upper_case", "word", "word", str.upper,
     """write {x} in capital letters
        put {x} in upper case
        make every letter of {x} a capital
        change {x} to capital letters
        shout {x}
        what does {x} look like in capitals?"""),
    ("capitalise", "word", "word", str.capitalize,
     """capitalise the first letter of {x}
        write {x} with a capital at the start
        begin {x} with a capital letter
        make the first letter of {x} large
        write {x} as if it were a name
        what does {x} look like at the start of a sentence?"""),
)  # fmt: skip
_tasks(
    "letters",
    ("first_letter", "word", "letters", lambda x: x[:1],
     """give the first letter of {x}
        what letter does {x} begin with?
        write down the initial of {x}
        tell me which letter {x} starts with
        name the letter at the front of {x}
        which letter comes first in {x}?"""),
    ("last_letter", "word", "letters", lambda x: x[-1:],
     """give the last letter of {x}
        what letter does {x} end with?
        write down the final letter of {x}
        tell me which letter {x} ends on
        name the letter at the end of {x}
        which letter comes last in {x}?"""),
    ("second_letter", "word", "letters", lambda x: x[1:2],
     """give the second letter of {x}
        what is letter number two of {x}?
        write down the letter after the first of {x}
        tell me the second character of {x}
        name the letter in place two of {x}
        which letter comes second in {x}?"""),
)  # fmt: skip
_tasks(
    "words",
    ("first_word", "words", "word", lambda x: x.split()[0],
     """give the first of {x}
        which word comes first in {x}?
        write down the one that {x} begin with
        keep only the first of {x}
        name the word at the front of {x}
        pick the first word out of {x}"""),
    ("last_word", "words", "word", lambda x: x.split()[-1],
     """give the last of {x}
        which word comes last in {x}?
        write down the one that {x} end with
        keep only the last of {x}
        name the word at the end of {x}
        pick the final word out of {x}"""),
)  # fmt: skip
_tasks(
    "sorting",
    ("sort_words", "words", "words", _listed(sorted),
     """sort {x} by the alphabet
        put {x} in alphabetical order
        arrange {x} from a to z
        order {x} as a dictionary does
        what are {x} in alphabetical order?
        list {x} alphabetically"""),
    ("sort_letters", "word", "word", lambda x: "".join(sorted(x)),
     """sort the letters of {x}
        put the letters of {x} in alphabetical order
        arrange the letters of {x} from a to z
        order the letters within {x}
        what are the letters of {x} in alphabetical order?
        write the letters of {x} alphabetically"""),
)  # fmt: skip
_tasks(
    "counting",
    ("count_letters", "word", "number", lambda x: str(len(x)),
     """count the letters of {x}
        how many letters does {x} have?
        give the number of letters in {x}
        say how long {x} is
        what is the length of {x}?
        tell me how many characters {x} has"""),
    ("count_vowels", "word", "number", lambda x: str(sum(x.lower().count(v) for v in VOWELS)),
     """count the vowels of {x}
        how many vowels does {x} have?
        give the number of vowels in {x}
        say how often a vowel stands in {x}
        what is the number of vowels of {x}?
        tell me how many letters of {x} are vowels"""),
    ("count_words", "words", "number", lambda x: str(len(x.split())),
     """count {x}
        how many are {x}?
        give the size of the list of {x}
        say how many of {x} there are
        what is the total count of {x}?
        tell me how many words stand in {x}"""),
)  # fmt: skip
_tasks(
    "removal",
    ("remove_vowels", "word", "word", lambda x: "".join(c for c in x if c.lower() not in VOWELS),
     """remove the vowels from {x}
        write {x} without vowels
        delete every vowel of {x}
        leave out all vowels of {x}
        take the vowels out of {x}
        what is left of {x} without its vowels?"""),
    ("remove_first", "word", "word", lambda x: x[1:],
     """remove the first letter of {x}
        write {x} without its first letter
        delete the letter that {x} begins with
        cut off the front letter of {x}
        drop the initial of {x}
        what is left of {x} after its first letter?"""),
    ("remove_last", "word", "word", lambda x: x[:-1],
     """remove the last letter of {x}
        write {x} without its last letter
        delete the letter that {x} ends with
        cut off the final letter of {x}
        drop the ending letter of {x}
        what is left of {x} before its last letter?"""),
)  # fmt: skip
_tasks(
    "repetition",
    ("say_twice", "word", "words", lambda x: f"{x} {x}",
     """say {x} twice
        repeat {x} two times
        write {x} and then write it again
        print {x} double
        echo {x} one more time
        what is {x} said twice?"""),
    ("double_letters", "word", "word", lambda x: "".join(2 * c for c in x),
     """double every letter of {x}
        write each letter of {x} twice
        repeat all letters of {x} one by one
        print {x} with every letter doubled
        stutter each character of {x}
        what is {x} with its letters doubled?"""),
)  # fmt: skip
_tasks(
    "length",
    ("longest", "words", "word", lambda x: max(x.split(), key=len),
     """find the longest of {x}
        which of {x} is the longest?
        pick the word with the most letters from {x}
        give the largest word among {x}
        tell me which of {x} has the greatest length
        name the longest one of {x}"""),
    ("shortest", "words", "word", lambda x: min(x.split(), key=len),
     """find the shortest of {x}
        which of {x} is the shortest?
        pick the word with the fewest letters from {x}
        give the smallest word among {x}
        tell me which of {x} has the least length
        name the shortest one of {x}"""),
)  # fmt: skip
_tasks(
    "tests of words",
    ("is_palindrome", "word", "yes or no", _whether(lambda x: x == x[::-1]),
     """is {x} a palindrome?
        does {x} read the same backwards?
        check whether {x} is a palindrome
        say if {x} is the same from both sides
        decide whether {x} equals its own reverse
        tell me if {x} is a palindrome"""),
    ("begins_with_vowel", "word", "yes or no", _whether(lambda x: x[:1].lower() in tuple(VOWELS)),
     """is the first letter of {x} a vowel?
        does {x} begin with a vowel?
        check whether {x} starts with a vowel
        say if a vowel stands at the front of {x}
        decide whether {x} has a vowel at the start
        tell me if {x} begins with a vowel"""),
)  # fmt: skip
_tasks(
    "totals",
    ("sum", "numbers", "number", _numbers(sum),
     """add up {x}
        what is the sum of {x}?
        give the total of {x}
        sum {x}
        work out how much {x} are together
        find the sum of {x}"""),
    ("largest", "numbers", "number", _numbers(max),
     """find the largest of {x}
        which of {x} is the greatest?
        give the maximum of {x}
        pick the highest of {x}
        what is the biggest of {x}?
        tell me the top value among {x}"""),
    ("smallest", "numbers", "number", _numbers(min),
     """find the smallest of {x}
        which of {x} is the least?
        give the minimum of {x}
        pick the lowest of {x}
        what is the tiniest of {x}?
        tell me the bottom value among {x}"""),
)  # fmt: skip
_tasks(
    "order of numbers",
    ("sort_up", "numbers", "numbers", _listed(lambda x: sorted(x, key=int)),
     """sort {x} from small to large
        put {x} in ascending order
        arrange {x} so that they rise
        order {x} with the smallest first
        what are {x} in rising order?
        list {x} from low to high"""),
    ("sort_down", "numbers", "numbers", _listed(lambda x: sorted(x, key=int, reverse=True)),
     """sort {x} from large to small
        put {x} in descending order
        arrange {x} so that they fall
        order {x} with the largest first
        what are {x} in falling order?
        list {x} from high to low"""),
)  # fmt: skip
_tasks(
    "arithmetic",
    ("add_one", "number", "number", _numbers(lambda x: x[0] + 1),
     """add one to {x}
        what comes after {x}?
        increase {x} by one
        count on from {x}
        give the successor of {x}
        what is one more than {x}?"""),
    ("subtract_one", "number", "number", _numbers(lambda x: x[0] - 1),
     """subtract one from {x}
        what comes before {x}?
        decrease {x} by one
        count back from {x}
        give the predecessor of {x}
        what is one less than {x}?"""),
    ("double", "number", "number", _numbers(lambda x: 2 * x[0]),
     """double {x}
        what is twice {x}?
        multiply {x} by two
        add {x} to itself
        give two times {x}
        how much is {x} doubled?"""),
)  # fmt: skip
_tasks(
    "tests of numbers",
    ("is_even", "number", "yes or no", _whether(lambda x: int(x) % 2 == 0),
     """is {x} even?
        check whether {x} is even
        does two divide {x}?
        say if {x} is an even number
        decide whether half of {x} is whole
        tell me if {x} is even"""),
    ("above_ten", "number", "yes or no", _whether(lambda x: int(x) > 10),
     """is {x} above ten?
        check whether {x} is greater than ten
        does {x} exceed ten?
        say if {x} is more than ten
        decide whether {x} is larger than ten
        tell me if {x} is over ten"""),
)  # fmt: skip
_tasks(
    "joining",
    ("hyphens", "words", "letters", lambda x: x.replace(" ", "-"),
     """join {x} with hyphens
        put a hyphen between {x}
        write {x} with dashes in between
        connect {x} by hyphens
        what are {x} joined by hyphens?
        link {x} with a dash"""),
    ("commas", "words", "letters", lambda x: x.replace(" ", ", "),
     """join {x} with commas
        put a comma between {x}
        write {x} as a list with commas
        separate {x} by commas
        what are {x} separated by commas?
        divide {x} with a comma"""),
    ("together", "words", "word", lambda x: x.replace(" ", ""),
     """join {x} without spaces
        put {x} together as one
        write {x} as a single word
        remove the spaces between {x}
        what are {x} without spaces?
        glue {x} together"""),
)  # fmt: skip
_tasks(
    "marks",
    ("quote", "word", "letters", lambda x: f'"{x}"',
     """put {x} in quotation marks
        quote {x}
        write quotes around {x}
        enclose {x} in quotes
        what does {x} look like in quotation marks?
        set {x} between quotation marks"""),
    ("brackets", "word", "letters", lambda x: f"({x})",
     """put {x} in brackets
        bracket {x}
        write brackets around {x}
        enclose {x} in parentheses
        what does {x} look like in brackets?
        set {x} between brackets"""),
    ("exclaim", "word", "letters", lambda x: f"{x}!",
     """put an exclamation mark after {x}
        exclaim {x}
        write {x} with an exclamation mark
        end {x} with an exclamation mark
        what does {x} look like as an exclamation?
        add an exclamation mark to {x}"""),
)  # fmt: skip
CLUSTERS = tuple(dict.fromkeys(task.cluster for task in TASKS.values()))
