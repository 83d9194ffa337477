"""Bodies of requests: OpenAI's fields, and a few more by the names that llama.cpp and vLLM give them.

A field that is not here is ignored, as OpenAI's API does with those that it does not know; a value that
cannot be is an error. Numbers are not read from strings.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(max_length=1 << 24)]
Token = Annotated[int, Field(ge=0, lt=1 << 31)]
Weight = Annotated[float, Field(ge=-1000, le=1000)]
Prompt = Text | list[Text] | list[Token] | list[list[Token]]


class Error(BaseModel):
    """Error of the API."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Body of an answer that is an error."""

    error: Error


class Body(BaseModel):
    """Base class of bodies."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, strict=True)

    model: str = Field(max_length=256, description="name of a run, or RUN:ADAPTER")


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    model_config = ConfigDict(extra="ignore", strict=True)

    include_usage: bool | None = None


class Generation(Body):
    """Fields that completions and chat share."""

    temperature: float | None = Field(None, ge=0, le=2, description="default: 1")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1, lt=1 << 31)
    min_p: float | None = Field(None, ge=0, le=1)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    logit_bias: dict[str, float] | None = None
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    stop: str | list[str] | None = None
    n: int | None = Field(None, ge=1, le=128)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    adapters: dict[str, Weight] | None = Field(
        None, description="weights of the run's adapters by name"
    )
    guided_choice: list[str] | None = Field(None, description="the answer is one of these")
    guided_regex: str | None = Field(None, description="the answer matches this as a whole")


class Completion(Generation):
    """Body of /v1/completions."""

    prompt: Prompt = Field(description="texts or tokens")
    max_tokens: int | None = Field(None, ge=0, description="default: 16")
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    suffix: str | None = None
    best_of: int | None = Field(None, ge=1)
    guided_json: dict[str, Any] | None = Field(
        None, description="the answer is an object of this JSON schema"
    )


class Part(BaseModel):
    """Part of a message's content."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: str
    text: str | None = None


class FunctionCall(BaseModel):
    """Name and arguments of a called function."""

    model_config = ConfigDict(extra="ignore", strict=True)

    name: str
    arguments: str


class ToolCall(BaseModel):
    """Call of a tool in an earlier answer."""

    model_config = ConfigDict(extra="ignore", strict=True)

    function: FunctionCall


class Message(BaseModel):
    """Message of a conversation."""

    model_config = ConfigDict(extra="ignore", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    tool_calls: list[ToolCall] | None = None


class Function(BaseModel):
    """Function that a model may call."""

    model_config = ConfigDict(extra="ignore", strict=True)

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(BaseModel):
    """Tool that a model may use."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["function"]
    function: Function


class NamedFunction(BaseModel):
    """Name of a function."""

    model_config = ConfigDict(extra="ignore", strict=True)

    name: str


class NamedTool(BaseModel):
    """Tool that must be used."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(BaseModel):
    """JSON schema that an answer follows."""

    model_config = ConfigDict(extra="ignore", strict=True, populate_by_name=True)

    name: str | None = None
    content: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    """Format of an answer."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatCompletion(Generation):
    """Body of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(
        None, ge=1, description="default: what the context has room for"
    )
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None


class Embeddings(Body):
    """Body of /v1/embeddings."""

    input: Prompt = Field(description="texts or tokens; of a CLIP also data:image/...;base64,...")
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1)


class Tokenize(Body):
    """Body of /tokenize."""

    prompt: Text
    add_special_tokens: bool | None = Field(
        None, description="whether to begin as prompts do, with BOS where the model wants it"
    )


class Detokenize(Body):
    """Body of /detokenize."""

    tokens: list[Token]


class Lookup(Body):
    """Body of /trace and /portrait."""

    text: str = Field(max_length=1 << 20)


class Pictures(Body):
    """Body of /v1/images/generations."""

    prompt: str | None = None
    n: int | None = Field(None, ge=1, le=128)
    size: str | None = Field(None, description="WIDTHxHEIGHT of the run's pictures, or auto")
    response_format: Literal["b64_json", "url"] | None = None
    seed: int | None = Field(None, ge=0, lt=1 << 63)
    steps: int | None = Field(None, ge=1)
    guidance: float | None = Field(None, ge=-100, le=100)
    solver: str | None = None
    prior: str | None = Field(None, description="run that makes the embeddings that the run reads")
    upsample: str | None = Field(None, description="run that enlarges what is made")
