"""Chat templates, as Hugging Face writes them in Jinja: run in a sandbox, and only when a conversation asks for it.

Source: documentation of transformers, "Writing a chat template"; environment and functions as described there.
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment


def render(template: str, messages: Sequence[Mapping[str, str]], tokens: Mapping[str, str]) -> str:
    """The conversation as text, special tokens by name, up to where the assistant is to speak.

    `messages`: {"role": ..., "content": ...}; `tokens`: bos_token, eos_token and so on.
    Raises ValueError where the template is malformed, refuses the conversation, or reaches for what it may not.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, **{"ensure_ascii": False, **options})
    environment.globals |= {"raise_exception": _refuse, "strftime_now": time.strftime}
    try:
        return environment.from_string(template).render(messages=messages, add_generation_prompt=True, **tokens)
    except (jinja2.TemplateError, TypeError, ValueError, KeyError, OverflowError, RecursionError) as error:
        raise ValueError(f"the model's chat template cannot write this conversation: {error}") from error


def _refuse(why: Any) -> None:
    raise jinja2.TemplateError(str(why))
