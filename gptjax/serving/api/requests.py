"""What the API is asked, read from JSON: every field checked, none silently dropped. Knows no model, imports no JAX."""

import dataclasses
import secrets
from collections.abc import Mapping
from typing import Any

from gptjax.serving.api.fields import Fields, Read, flag, kind, listed, one_of, real, text, whole
from gptjax.serving.api.messages import Message, message, tool
from gptjax.serving.errors import ApiError

MOST_SAMPLES = 128  # n, as with OpenAI
MOST_CHOICES = 512  # samples of all prompts of one request
MOST_INPUTS = 2048  # texts of one request for embeddings or classes, as with OpenAI
MOST_LIKELIEST = 20
MOST_STOPS, STOP_CHARACTERS = 64, 1024  # strings; of all of them, for each token is held against each
MOST_MESSAGES, MOST_TOOLS = 4096, 128
ID = 2**31 - 1
SEED = 2**63

# Fields of OpenAI's that change no text: they may be sent, and do nothing. docs/serving.md lists them.
IGNORED = frozenset(
    {
        *("metadata", "store", "service_tier", "user", "safety_identifier"),
        *("prompt_cache_key", "prompt_cache_retention"),
    }
)

Prompt = str | tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawing:
    """How text is drawn: what completions and chats have in common."""

    model: str
    n: int
    tokens: int | None  # None = nobody said
    tokens_field: str  # by which name they were asked for
    temperature: float
    top_p: float
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int | str, float | int]  # by token id
    stop: tuple[str, ...]
    seed: int
    likeliest: int | None  # tokens whose log-probabilities come with each token; None = not even its own
    form: Mapping[str, Any] | None  # {"type": "json_object"}, {"type": "json_schema", ...}, {"type": "regex", ...}
    stream: bool
    usage_in_stream: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Completion(Drawing):
    prompts: tuple[Prompt, ...]
    echo: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversation(Drawing):
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] | None
    continues: bool  # the last message is the beginning of the reply


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedding:
    model: str
    inputs: tuple[Prompt, ...]
    base64: bool
    dimensions: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification:
    model: str
    texts: tuple[str | tuple[str, str], ...]  # or pairs of them
    ids: tuple[tuple[int, ...], ...]  # in place of texts
    head: str | None  # None = the only one


@dataclasses.dataclass(frozen=True, kw_only=True)
class Looking:
    model: str
    prompt: Prompt
    token: int | None  # whose causes are looked for; None = the likeliest that would follow


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokenizing:
    """A plain text, or a conversation as the model reads it before it replies."""

    model: str | None
    prompt: str | None
    messages: tuple[Message, ...] | None
    tools: tuple[Mapping[str, Any], ...] | None
    continues: bool
    special: bool  # BOS goes before a plain text, where the model's texts begin with it
    names: bool  # each token's text is wanted too


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detokenizing:
    model: str | None
    ids: tuple[int, ...]


def completion(content: Any) -> Completion:
    """The body of /v1/completions. Raises ApiError, as all of these do."""
    fields = Fields(content)
    model = fields.need("model", text)
    prompts = fields.need("prompt", _prompts(MOST_CHOICES))
    likeliest = fields.take("logprobs", whole(0, MOST_LIKELIEST))
    drawing = _drawing(fields, model, likeliest, ("max_tokens",))
    echo = fields.take("echo", flag, False)
    best_of = fields.take("best_of", whole(1, MOST_SAMPLES))
    _unsupported(fields, "suffix", "a text cannot be filled in, only continued: leave it out")
    fields.finish(IGNORED)
    if best_of not in (None, drawing["n"]):
        raise ApiError(
            f"best_of is {best_of}, n is {drawing['n']}: every sample is returned, so they must agree", "best_of"
        )
    if len(prompts) * drawing["n"] > MOST_CHOICES:
        raise ApiError(f"{len(prompts)} prompts with n={drawing['n']} are more than {MOST_CHOICES} texts at once", "n")
    return Completion(**drawing, prompts=prompts, echo=echo)


def conversation(content: Any) -> Conversation:
    """The body of /v1/chat/completions."""
    fields = Fields(content)
    model = fields.need("model", text)
    messages = fields.need("messages", listed(message, MOST_MESSAGES, 1))
    shown, likeliest = fields.take("logprobs", flag, False), fields.take("top_logprobs", whole(0, MOST_LIKELIEST))
    if likeliest is not None and not shown:
        raise ApiError("top_logprobs needs logprobs: true", "top_logprobs")
    drawing = _drawing(fields, model, (likeliest or 0) if shown else None, ("max_completion_tokens", "max_tokens"))
    tools = _tools(fields)
    continues = _continues(fields, messages)
    fields.take("modalities", listed(one_of("text"), 1, 1))
    for name, why in {
        "functions": "this is OpenAI's old form: use tools",
        "function_call": "this is OpenAI's old form: use tool_choice",
        "audio": "this model writes text only",
        "prediction": "texts are not predicted here: leave it out",
        "web_search_options": "this server searches nothing",
        "reasoning_effort": "this model has no such setting",
        "verbosity": "this model has no such setting; max_completion_tokens limits a reply",
    }.items():
        _unsupported(fields, name, why)
    fields.finish(IGNORED)
    return Conversation(**drawing, messages=tuple(messages), tools=tools, continues=continues)


def embedding(content: Any) -> Embedding:
    """The body of /v1/embeddings."""
    fields = Fields(content)
    asked = Embedding(
        model=fields.need("model", text),
        inputs=fields.need("input", _prompts(MOST_INPUTS)),
        base64=fields.take("encoding_format", one_of("float", "base64"), "float") == "base64",
        dimensions=fields.take("dimensions", whole(1, ID)),
    )
    fields.finish(IGNORED)
    return asked


def classification(content: Any) -> Classification:
    """The body of /v1/classify."""
    fields = Fields(content)
    model, (texts, ids) = fields.need("model", text), fields.need("input", _judged)
    asked = Classification(
        model=model,
        texts=texts,
        ids=ids,
        head=fields.take("head", text),
    )
    fields.finish(IGNORED)
    return asked


def looking(content: Any) -> Looking:
    """The body of /look."""
    fields = Fields(content)
    model, [prompt] = fields.need("model", text), fields.need("prompt", _prompts(1))
    asked = Looking(model=model, prompt=prompt, token=fields.take("token", whole(1, ID)))
    fields.finish(IGNORED)
    return asked


def tokenizing(content: Any) -> Tokenizing:
    """The body of /tokenize."""
    fields = Fields(content)
    prompt, messages = fields.take("prompt", text), fields.take("messages", listed(message, MOST_MESSAGES, 1))
    if (prompt is None) == (messages is None):
        raise ApiError("either prompt, a text, or messages must be there", "prompt")
    asked = Tokenizing(
        model=fields.take("model", text),
        prompt=prompt,
        messages=None if messages is None else tuple(messages),
        tools=_tools(fields),
        continues=_continues(fields, messages or []),
        special=fields.take("add_special_tokens", flag, messages is None),
        names=fields.take("return_token_strs", flag, False),
    )
    fields.finish(IGNORED)
    if asked.special and messages is not None:
        raise ApiError("the chat template writes the special tokens of messages: leave it out", "add_special_tokens")
    return asked


def detokenizing(content: Any) -> Detokenizing:
    """The body of /detokenize."""
    fields = Fields(content)
    asked = Detokenizing(model=fields.take("model", text), ids=fields.need("tokens", _ids))
    fields.finish(IGNORED)
    return asked


def _drawing(fields: Fields, model: str, likeliest: int | None, limits: tuple[str, ...]) -> dict[str, Any]:
    """The fields of Drawing; of several `limits` the first one counts."""
    counts = {name: fields.take(name, whole(1, ID)) for name in limits}
    asked = next((name for name, count in counts.items() if count is not None), limits[0])
    stream = fields.take("stream", flag, False)
    top_k = fields.take("top_k", whole(-1, ID), 0)
    found = {
        "model": model,
        "n": fields.take("n", whole(1, MOST_SAMPLES), 1),
        "tokens": counts[asked],
        "tokens_field": asked,
        "temperature": fields.take("temperature", real(0, 2), 1.0),
        "top_p": fields.take("top_p", real(0, 1, above=True), 1.0),
        "top_k": top_k if top_k > 0 else None,  # vLLM's 0 and -1 draw from all
        "min_p": fields.take("min_p", real(0, 1), 0.0) or None,
        "repetition_penalty": fields.take("repetition_penalty", real(0, 2, above=True)),
        "presence_penalty": fields.take("presence_penalty", real(-2, 2), 0.0),
        "frequency_penalty": fields.take("frequency_penalty", real(-2, 2), 0.0),
        "logit_bias": fields.take("logit_bias", _bias, {}),
        "stop": fields.take("stop", _stops, ()),
        "seed": fields.take("seed", whole(-SEED, SEED - 1), secrets.randbits(32)) % 2**32,
        "likeliest": likeliest,
        "form": _form(fields),
        "stream": stream,
        "usage_in_stream": fields.take("stream_options", _stream_options, False),
    }
    if found["usage_in_stream"] and not stream:
        raise ApiError("stream_options needs stream: true", "stream_options")
    return found


def _prompts(most: int) -> Read[tuple[Prompt, ...]]:
    """One text or several, or one list of token ids or several."""

    def read(value: Any, name: str) -> tuple[Prompt, ...]:
        if isinstance(value, str):
            return (value,)
        if not isinstance(value, list) or not value:
            raise ApiError(f"{name} must be text, token ids, or a list of them, not {_empty_or(value)}", name)
        if isinstance(value[0], int) and not isinstance(value[0], bool):
            return (_ids(value, name),)
        return tuple(listed(_ids if isinstance(value[0], list) else text, most)(value, name))

    return read


def _judged(value: Any, name: str) -> tuple[tuple[str | tuple[str, str], ...], tuple[tuple[int, ...], ...]]:
    """(texts or pairs of them, none where there are ids; token ids)."""
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, list) and first and isinstance(first[0], str):
        return tuple((one[0], one[1]) for one in listed(listed(text, 2, 2), MOST_INPUTS)(value, name)), ()
    found = _prompts(MOST_INPUTS)(value, name)
    return tuple(one for one in found if isinstance(one, str)), tuple(one for one in found if not isinstance(one, str))


def _ids(value: Any, name: str) -> tuple[int, ...]:
    """Whether the model has them is seen later."""
    if not isinstance(value, list) or not value:
        raise ApiError(f"{name} must be a list of token ids, not {_empty_or(value)}", name)
    if all(type(id) is int for id in value) and min(value) >= 0 and max(value) <= ID:  # at once, for there can be many
        return tuple(value)
    return tuple(listed(whole(0, ID), len(value))(value, name))


def _empty_or(value: Any) -> str:
    return "an empty list" if value == [] else kind(value)


def _stops(value: Any, name: str) -> tuple[str, ...]:
    found = (text(value, name),) if isinstance(value, str) else tuple(listed(text, MOST_STOPS)(value, name))
    if not all(found):
        raise ApiError(f"{name} has an empty text, which every text ends with", name)
    if (size := sum(map(len, found))) > STOP_CHARACTERS:
        raise ApiError(f"{name} has {size} characters; must have at most {STOP_CHARACTERS}, all texts together", name)
    return found


def _bias(value: Any, name: str) -> dict[int | str, float | int]:
    if not isinstance(value, dict):
        raise ApiError(f"{name} must be an object, token id -> bias, not {kind(value)}", name)
    found: dict[int | str, float | int] = {}
    for token, bias in value.items():
        if not (token.isascii() and token.isdigit() and len(token) < 11):
            raise ApiError(f"{name} has {token[:60]!r}, which is no token id", name)
        found[int(token)] = real(-100, 100)(bias, f"{name}[{token}]")
    return found


def _stream_options(value: Any, name: str) -> bool:
    fields = Fields(value, name)
    usage = fields.take("include_usage", flag, False)
    fields.finish({"include_obfuscation"})
    return usage


def _form(fields: Fields) -> Mapping[str, Any] | None:
    """What form the text must have, by OpenAI's `response_format` or by `regex`, which is an extension."""
    form, regex = fields.take("response_format", _response_format), fields.take("regex", text)
    if form is not None and regex is not None:
        raise ApiError("regex and response_format cannot both hold: leave one out", "regex")
    return form if regex is None else {"type": "regex", "regex": regex}


def _response_format(value: Any, name: str) -> Mapping[str, Any] | None:
    fields = Fields(value, name)
    match fields.need("type", one_of("text", "json_object", "json_schema")):
        case "text":
            found = None
        case "json_object":
            found = {"type": "json_object"}
        case _:
            found = {"type": "json_schema", "schema": fields.need("json_schema", _schema)}
    fields.finish()
    return found


def _schema(value: Any, name: str) -> Mapping[str, Any]:
    fields = Fields(value, name)
    fields.take("name", text)
    fields.take("description", text)
    fields.take("strict", flag)  # it is kept to in any case
    schema = fields.take("schema", _object, {})
    fields.finish()
    return schema


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ApiError(f"{name} must be an object, not {kind(value)}", name)
    return value


def _tools(fields: Fields) -> tuple[Mapping[str, Any], ...] | None:
    """What the template is given; None where the model shall not call any."""
    tools = fields.take("tools", listed(tool, MOST_TOOLS)) or None
    choice = fields.take("tool_choice", _tool_choice, "auto")
    fields.take("parallel_tool_calls", flag)  # the reply comes as text: nothing cuts it into calls
    return tuple(tools) if tools and choice == "auto" else None


def _tool_choice(value: Any, name: str) -> str:
    if value in ("none", "auto"):
        return value
    raise ApiError(f"{name} must be 'auto' or 'none': no model can be made to call a tool here", name)


def _continues(fields: Fields, messages: list[Message]) -> bool:
    continues = fields.take("continue_final_message", flag, False)
    last = messages[-1] if messages else {}
    if continues and not (last.get("role") == "assistant" and last.get("content")):
        raise ApiError("the last message must be the assistant's, with the beginning of its reply", "messages")
    return continues


def _unsupported(fields: Fields, name: str, why: str) -> None:
    def refuse(value: Any, name: str) -> None:
        raise ApiError(f"{name}: {why}", name, code="unsupported_parameter")

    fields.take(name, refuse)
