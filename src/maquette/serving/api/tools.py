"""Calls of tools: what a model is held to where it must call one, and what it wrote where it may.

A named tool: the answer's beginning is forced up to the arguments, which follow the tool's schema. Any of
several: a schema with one alternative for each. A free answer that is a call in whole is one, too.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from maquette.serving.api.bodies import ChatCompletion, NamedTool, Tool
from maquette.serving.api.errors import ApiError

OBJECT: dict[str, Any] = {"type": "object"}
OPENING, CLOSING = "<tool_call>", "</tool_call>"
"""marks that some models put around a call"""


@dataclass(frozen=True)
class Choice:
    """How the tools of a request are used."""

    tools: tuple[Tool, ...] = ()
    """tools that the model is told of"""
    named: Tool | None = None
    """tool that must be called"""
    required: bool = False
    """whether one of them must be called"""

    @property
    def schema(self) -> dict[str, Any] | None:
        """The schema that the answer, after `forced`, is held to; None: it is free."""
        if self.named is not None:
            return _parameters(self.named)
        if not self.required:
            return None
        return {"anyOf": [_call_schema(tool) for tool in self.tools]}

    @property
    def forced(self) -> str:
        """The text that the answer is made to begin with."""
        if self.named is None:
            return ""
        return f'{{"name": "{self.named.function.name}", "arguments": '


def choice_of(body: ChatCompletion) -> Choice:
    """The use of tools that a body asks for. Raises ApiError for a tool that is not there."""
    tools, how = tuple(body.tools or ()), body.tool_choice
    if how in ("none", None) and (how == "none" or not tools):
        return Choice()
    if not tools:
        raise ApiError(400, "tool_choice without tools: give tools, too", param="tool_choice")
    if isinstance(how, NamedTool):
        named = next((tool for tool in tools if tool.function.name == how.function.name), None)
        if named is None:
            name = how.function.name[:64]
            raise ApiError(400, f"there is no tool {name} in tools", param="tool_choice")
        return Choice(tools, named)
    return Choice(tools, required=how == "required")


def may_be_call(text: str) -> bool:
    """Whether a free answer that begins so may yet be a call."""
    start = text.lstrip()
    return not start or start[0] == "{" or OPENING.startswith(start[: len(OPENING)])


def call_in(text: str, tools: Sequence[Tool]) -> tuple[str, str] | None:
    """Name and arguments of the call that an answer is in whole; None: it is none."""
    content = text.strip()
    if content.startswith(OPENING):
        content = content.removeprefix(OPENING).removesuffix(CLOSING).strip()
    try:
        said = json.loads(content)
        name, arguments = said["name"], said["arguments"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if name not in {tool.function.name for tool in tools} or not isinstance(arguments, dict):
        return None
    return name, json.dumps(arguments, ensure_ascii=False)


def call_object(name: str, arguments: str) -> dict[str, Any]:
    """A call as OpenAI's API has it."""
    return {
        "id": f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _parameters(tool: Tool) -> dict[str, Any]:
    return tool.function.parameters or OBJECT


def _call_schema(tool: Tool) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": tool.function.name}, "arguments": _parameters(tool)},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
