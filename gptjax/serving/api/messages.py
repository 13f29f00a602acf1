"""The messages of a conversation, and the tools that go with it, as chat templates take them."""

import json
from collections.abc import Mapping
from typing import Any

from gptjax.serving.api.fields import Fields, anything, flag, kind, listed, one_of, text
from gptjax.serving.errors import ApiError

MOST_PARTS, MOST_CALLS = 1024, 128
ROLES = ("system", "developer", "user", "assistant", "tool")

Message = Mapping[str, Any]


def message(value: Any, name: str) -> Message:
    """{"role", "content"} and what else the role has. Parts of a content become one text, line by line.

    The role `developer`, which no chat template knows, is `system`.
    """
    fields = Fields(value, name)
    role = fields.need("role", one_of(*ROLES))
    found: dict[str, Any] = {"role": "system" if role == "developer" else role}
    if role == "assistant":
        found["tool_calls"] = fields.take("tool_calls", listed(_call, MOST_CALLS)) or None
        found["reasoning_content"] = fields.take("reasoning_content", text)
        for answered in ("refusal", "audio", "function_call", "annotations"):  # as our own replies have them: empty
            fields.take(answered, _nothing)
    if role == "tool":
        found["tool_call_id"] = fields.take("tool_call_id", text)
    found["name"] = fields.take("name", text)
    found["content"] = fields.take("content", _content)
    fields.finish()
    if found["content"] is None and found.get("tool_calls") is None:
        raise ApiError(f"{name}.content is missing: the {role} says nothing", f"{name}.content")
    found["content"] = found["content"] or ""
    return {field: one for field, one in found.items() if one is not None}


def tool(value: Any, name: str) -> Mapping[str, Any]:
    """A function that the model may ask for, as the template shows it."""
    fields = Fields(value, name)
    found = {"type": fields.need("type", one_of("function")), "function": fields.need("function", _function)}
    fields.finish()
    return found


def _function(value: Any, name: str) -> Mapping[str, Any]:
    fields = Fields(value, name)
    found = {
        "name": fields.need("name", text),
        "description": fields.take("description", text),
        "parameters": fields.take("parameters", _parameters),
    }
    fields.take("strict", flag)
    fields.finish()
    return {field: one for field, one in found.items() if one is not None}


def _parameters(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ApiError(f"{name} must be an object, a JSON schema, not {kind(value)}", name)
    return value


def _content(value: Any, name: str) -> str:
    return value if isinstance(value, str) else "\n".join(listed(_part, MOST_PARTS)(value, name))


def _part(value: Any, name: str) -> str:
    fields = Fields(value, name)
    fields.need("type", one_of("text"))
    found = fields.need("text", text)
    fields.finish()
    return found


def _call(value: Any, name: str) -> Mapping[str, Any]:
    """A call that the assistant made. Templates write its arguments as JSON, so they get the object, not its text."""
    fields = Fields(value, name)
    found = {
        "id": fields.take("id", text),
        "type": fields.take("type", one_of("function"), "function"),
        "function": fields.need("function", _called),
    }
    fields.take("index", anything)  # as streams have it
    fields.finish()
    return {field: one for field, one in found.items() if one is not None}


def _called(value: Any, name: str) -> Mapping[str, Any]:
    fields = Fields(value, name)
    found = {"name": fields.need("name", text), "arguments": fields.need("arguments", _arguments)}
    fields.finish()
    return found


def _arguments(value: Any, name: str) -> Any:
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ApiError(f"{name} must be an object, or JSON of one", name)
    return found


def _nothing(value: Any, name: str) -> None:
    if value not in ("", []):
        raise ApiError(f"{name} must be null: only text can be read here", name)
