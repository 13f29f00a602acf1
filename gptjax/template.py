"""Chat templates, as Hugging Face writes them in Jinja: run in a sandbox, and only when a conversation asks for it.

The sandbox keeps a template from anything but text. It does not keep it from taking for ever, or all memory: take
models that talk from people whom you trust.

Source: documentation of transformers, "Writing a chat template"; environment and functions as described there.
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


def render(template: str, messages: Sequence[Mapping[str, str]], names: Mapping[str, str]) -> str:
    """The conversation as text, special tokens by name, up to where the assistant is to speak.

    `messages`: {"role": ..., "content": ...}; `names`: bos_token, eos_token and so on, as far as the model has them.
    Raises ValueError where the template is malformed, refuses the conversation, or reaches for what it may not.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _refuse, "strftime_now": time.strftime}
    offered: dict[str, Any] = {"add_generation_prompt": True, "tools": None, "documents": None, **names}
    try:
        return environment.from_string(template).render(messages=messages, **offered)
    except (Exception, MemoryError) as error:  # a template can raise whatever an expression can
        raise ValueError(f"the model's chat template cannot write this conversation: {error}") from error


class _Generation(Extension):
    """`{% generation %}` marks what the assistant said, for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012  Jinja makes a copy of its own for each environment

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(why: Any) -> None:
    raise jinja2.TemplateError(str(why))
