"""A model behind OpenAI's API, asked for the log-probabilities of answers.

    Endpoint("http://localhost:8000/v1", "small").log_likelihoods([("2 + 2 =", (" 4", " 5"))])

Two ways, of which the first that works is taken, and stays (`way`): /completions, which echoes a text with
the log-probability of each of its tokens (`echo` and `logprobs`: vLLM, llama.cpp's server, OpenAI's first
API), so that answers are scored whole; else /chat/completions, which gives the likeliest first tokens of its
own answer (`top_logprobs`): an answer is then scored by the tokens that it begins with, and one that is not
among them counts as less than the least. Nothing else of a reply is used.

The key comes from an environment variable at each request, is sent to this address alone (redirects are
refused) and neither kept nor shown. A rate limit is waited out, as long as the endpoint asks, within bounds.
"""

import json
import math
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from typing import Any, Literal

from maquette.base.errors import UserError, WrongUse

BATCH = 32  # texts of a request
TOP = 20  # first tokens that a chat is asked for
TRIES, LONGEST_WAIT = 6, 60.0  # of a rate limit; seconds
UNSEEN = 1.0  # nats that an answer not among the likeliest stands below the last of them
LIMITED = (429, 503)
Asked = tuple[str, Sequence[str]]
"""a context, and the answers whose likelihood after it is asked"""


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it would take the key to another address."""

    def redirect_request(self, *given: Any) -> None:
        return None


class NoLogProbabilities(UserError):
    """A reply without the log-probabilities that were asked for."""


class Endpoint:
    """See the file's docstring.

    key_variable: name of the environment variable with the key. timeout: seconds that a reply may take.
    sleep: waits that many seconds. Raises WrongUse for an address that is none.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_variable: str = "OPENAI_API_KEY",
        timeout: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise WrongUse(f"{url} is no address: write such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query:
            raise WrongUse(
                "the address holds a name, a key or a query: put the key into a variable"
            )
        if not 0 < timeout < math.inf:
            raise WrongUse(f"timeout is {timeout:g}: use a number of seconds above 0")
        self.url = url.rstrip("/") + ("" if parts.path.strip("/") else "/v1")
        self.model, self.requests = model, 0
        self._key_variable, self._timeout, self._sleep = key_variable, timeout, sleep
        self._opener = urllib.request.build_opener(NoRedirect())
        self.way: Literal["echo", "first tokens"] | None = None
        """how answers are scored; None: what works is found out with the first of them"""

    def log_likelihoods(self, asked: Sequence[Asked]) -> list[list[float]]:
        """The log-likelihood of every answer after its context, in nats; `asked` is not empty.

        Raises UserError, in one line, for an endpoint that is down, slow, refuses the key, knows no such
        model, limits the rate for too long, or gives no log-probabilities.
        """
        if self.way is not None:
            return self._echoed(asked) if self.way == "echo" else self._chatted(asked)
        try:
            found = self._echoed(asked)
            self.way = "echo"
        except NoLogProbabilities:
            found = self._chatted(asked)
            self.way = "first tokens"
        return found

    def _echoed(self, asked: Sequence[Asked]) -> list[list[float]]:
        """By /completions: every answer is a text of its own."""
        pairs = [(context, answer) for context, answers in asked for answer in answers]
        sums: list[float] = []
        for first in range(0, len(pairs), BATCH):
            part = pairs[first : first + BATCH]
            reply = self._post(
                "/completions",
                {
                    "model": self.model,
                    "prompt": [context + answer for context, answer in part],
                    "max_tokens": 1,  # some refuse 0; what is written is left out of the sum
                    "temperature": 0,
                    "logprobs": 1,
                    "echo": True,
                },
                optional=True,
            )
            choices = sorted(_list(reply, "choices"), key=lambda choice: choice.get("index", 0))
            if len(choices) != len(part):
                raise NoLogProbabilities(self._without())
            sums += [self._sum(*pair, choice) for pair, choice in zip(part, choices, strict=True)]
        following = iter(sums)
        return [[next(following) for _ in answers] for _, answers in asked]

    def _sum(self, context: str, answer: str, choice: dict[str, Any]) -> float:
        """The sum over the tokens of the answer, the first of which may have begun before it."""
        said = choice.get("logprobs")
        said = said if isinstance(said, dict) else {}
        tokens, values = _list(said, "tokens"), _list(said, "token_logprobs")
        offsets = _list(said, "text_offset") or _offsets(tokens)
        start, end = len(context), len(context + answer)
        if len(values) < 2 or not len(tokens) == len(values) == len(offsets) or offsets[-1] < start:
            raise NoLogProbabilities(self._without())
        ends = [*offsets[1:], math.inf]
        own = [
            value
            for value, begins, ended in zip(values, offsets, ends, strict=True)
            if begins < end and ended > start
        ]
        if not own or not all(isinstance(value, int | float) for value in own):
            raise NoLogProbabilities(self._without())
        return float(sum(own))

    def _chatted(self, asked: Sequence[Asked]) -> list[list[float]]:
        """By /chat/completions: the likeliest first tokens of its answer."""
        found = []
        for context, answers in asked:
            if len(answers) < 2:
                raise UserError(
                    f"{self.url} scores first tokens alone, which do for choices: name examples with choices"
                )
            reply = self._post(
                "/chat/completions",
                {
                    "model": self.model,
                    "messages": [{"role": "user", "content": context}],
                    "max_tokens": 1,
                    "temperature": 0,
                    "logprobs": True,
                    "top_logprobs": TOP,
                },
            )
            choices = _list(reply, "choices")
            said = (choices[0].get("logprobs") or {}) if choices else {}
            content = _list(said, "content")
            top = _list(content[0], "top_logprobs") if content else []
            likely = [(str(one["token"]).strip(), float(one["logprob"])) for one in top]
            if not likely:
                raise UserError(self._without())
            least = min(value for _, value in likely) - UNSEEN
            found.append([_beginning(answer.strip(), likely, least) for answer in answers])
        return found

    def _post(self, path: str, content: dict[str, Any], optional: bool = False) -> dict[str, Any]:
        """The reply to a request. optional: whether the endpoint may lack this path, or a field of it."""
        request = urllib.request.Request(
            self.url + path, json.dumps(content).encode(), {"Content-Type": "application/json"}
        )
        if key := os.environ.get(self._key_variable):
            if not (key.isascii() and key.isprintable()):
                raise UserError(
                    f"${self._key_variable} holds a line end, or a sign that no key has: set the key alone"
                )
            request.add_unredirected_header("Authorization", f"Bearer {key}")
        for number in range(TRIES):
            self.requests += 1
            try:
                with self._opener.open(request, timeout=self._timeout) as response:
                    reply = json.loads(response.read())
                if not isinstance(reply, dict):
                    raise ValueError
                return reply
            except urllib.error.HTTPError as error:
                with error:
                    body = error.read(4096)
                if error.code not in LIMITED:
                    raise self._refused(error.code, body, optional) from None
                if number + 1 < TRIES:
                    self._sleep(_wait(error.headers.get("Retry-After"), number))
            except TimeoutError:
                raise self._slow() from None
            except urllib.error.URLError as error:
                if isinstance(error.reason, TimeoutError):
                    raise self._slow() from None
                raise UserError(
                    f"{self.url} cannot be reached ({error.reason}): start it, or mend --endpoint"
                ) from None
            except (OSError, HTTPException) as error:
                raise UserError(
                    f"{self.url} broke the connection off ({error}): go on with --resume"
                ) from None
            except ValueError:
                raise UserError(
                    f"{self.url}{path} answers with something other than JSON: mend --endpoint"
                ) from None
        raise UserError(
            f"{self.url} still limits the rate after {TRIES} tries: go on later with --resume"
        )

    def _refused(self, code: int, body: bytes, optional: bool) -> UserError:
        key = os.environ.get(self._key_variable)
        said = _message(body, key)
        if code in (401, 403):
            has = "refuses the key of" if key else "wants a key, and there is none in"
            return UserError(f"{self.url} {has} ${self._key_variable} ({code}): set the right one")
        if optional and code in (400, 404, 405, 422, 501):
            return NoLogProbabilities(f"{self.url} refuses ({code}{said})")
        if code == 404:
            return UserError(
                f"{self.url} knows no model {self.model} (404{said}): name one that it has with --model"
            )
        return UserError(f"{self.url} refuses ({code}{said}): see what it serves")

    def _slow(self) -> UserError:
        return UserError(
            f"{self.url} did not answer within {self._timeout:g} seconds: raise --timeout, or go on later "
            "with --resume"
        )

    def _without(self) -> str:
        return (
            f"{self.url} gives no log-probabilities of {self.model}: name an endpoint that does, as vLLM's "
            "or llama.cpp's server"
        )


def _list(content: Any, name: str) -> list[Any]:
    value = content.get(name) if isinstance(content, dict) else None
    return value if isinstance(value, list) else []


def _offsets(tokens: Sequence[str]) -> list[int]:
    offsets = [0]
    for token in tokens[:-1]:
        offsets.append(offsets[-1] + len(token))
    return offsets


def _beginning(answer: str, likely: Sequence[tuple[str, float]], least: float) -> float:
    """Logarithm of the probability of all tokens that an answer begins with; `least` where there are none."""
    own = [value for token, value in likely if token and answer.startswith(token)]
    return math.log(sum(map(math.exp, own))) if own else least


def _wait(asked: str | None, number: int) -> float:
    """Seconds to wait at a rate limit: what is asked for, else twice as long at each try."""
    try:
        seconds = float(asked or "")
    except ValueError:  # none, or a date
        seconds = 2.0**number
    return min(max(seconds, 0.0), LONGEST_WAIT) if math.isfinite(seconds) else LONGEST_WAIT


def _message(body: bytes, key: str | None) -> str:
    """What an error's body says, without the key, shortened."""
    try:
        content = json.loads(body)
    except ValueError:
        return ""
    said = content.get("error", content.get("message", "")) if isinstance(content, dict) else ""
    said = said.get("message", "") if isinstance(said, dict) else said
    said = str(said).replace(key, "...") if key else str(said)
    return f": {' '.join(said.split())[:160]}" if said else ""
