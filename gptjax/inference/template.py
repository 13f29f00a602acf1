"""Chat templates, as Hugging Face writes them in Jinja: run in a sandbox, and only when a conversation asks for it.

The sandbox keeps a template from anything but text. It does not keep it from taking for ever, or all memory: take
models that talk from people whom you trust.

Source: documentation of transformers, "Writing a chat template"; environment and functions as described there.
"""

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from types import CodeType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from gptjax.inference.typed_text import Guard, TypedText, plain_of, texts_in
from gptjax.text.tokenizer import SHIELD, Tokenizer

CONTINUED = "CONTINUE_FINAL_MESSAGE_TAG "  # transformers' own, for some templates trim what they write

UNCONTINUED = "the model's chat template does not write the last message as it is, so that it cannot be continued"


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    tokenizer: Tokenizer,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    continues: bool = False,
) -> str:
    """The conversation as text for `Tokenizer.encode_spelt`, up to where the assistant is to speak.

    Special tokens are spelt by name. Names that the messages or tools hold, rather than the template, have a SHIELD in
    them; so have those of special tokens in what the assistant said. The template sees neither.

    `messages`: {"role": ..., "content": ...}, and what else the template knows; a field that is None is left out.
    `names`: bos_token, eos_token and so on, as far as the model has them. `continues`: the last message is the
    beginning of what the assistant says.
    Raises ValueError where the template is malformed, refuses the conversation, or reaches for what it may not.
    """
    given = [_normal(message) for message in messages]
    guard = Guard(tokenizer.added_names, tokenizer.special_names, [template, *texts_in(given), *texts_in(tools)])
    if continues:
        given = [*given[:-1], given[-1] | {"content": given[-1]["content"] + CONTINUED}]
    typed = [guard.typed(message, message.get("role") == "assistant") for message in given]
    offered: dict[str, Any] = {"add_generation_prompt": not continues, "tools": guard.typed(tools), "documents": None}
    try:
        environment = _Environment(guard)
        compiled = environment.template_class.from_code(environment, _code(template), environment.make_globals(None))
        text = compiled.render(messages=typed, **offered, **names)
    except (Exception, MemoryError) as error:  # a template can raise whatever an expression can
        raise ValueError(f"the model's chat template cannot write this conversation: {error}") from error
    text = guard.shielded(text)
    if continues and messages[-1]["content"].strip() not in text.replace(SHIELD, ""):
        raise ValueError(f"{UNCONTINUED}: {messages[-1]['content'].strip()[:60]!r}")
    return _cut(text) if continues else text


@functools.lru_cache(maxsize=8)
def _code(template: str) -> CodeType:
    """A template compiled: it takes 20 ms or so, and names the filters of its environment, whichever renders it."""
    environment = _Environment(Guard((), (), (template,)))
    return environment.compile(_Operators().visit(environment.parse(template)))


def _normal(message: Mapping[str, Any]) -> dict[str, Any]:
    """Without fields that are None; what the assistant thought under each of its usual names, as in transformers."""
    given = {key: value for key, value in message.items() if value is not None}
    thought = next((given[name] for name in ("reasoning_content", "thinking", "reasoning") if name in given), None)
    return given if thought is None else {"thinking": thought, **given, "reasoning_content": thought}


def _cut(text: str) -> str:
    """What is before the mark of a message that continues, without the space at its end that the template trimmed."""
    before, mark, behind = text.rpartition(CONTINUED.strip())
    if not mark:
        raise ValueError(UNCONTINUED)
    return before if behind.startswith(" ") else before.rstrip()


class _Environment(ImmutableSandboxedEnvironment):
    """Whatever a template calls or joins, what was typed in it stays known."""

    def __init__(self, guard: Guard):
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
        self._guard = guard
        self.filters = {name: self._seeing(filter) for name, filter in self.filters.items()} | {"tojson": self._tojson}
        self.filters["~"] = lambda parts: guard.seen("".join(map(str, parts)))
        self.filters["in"] = self._searched
        self.globals |= {"raise_exception": _refuse, "strftime_now": time.strftime}
        self.concat = lambda parts: guard.seen("".join(parts))

    def call(self, context: Any, function: Any, /, *values: Any, **named: Any) -> Any:
        found = super().call(context, function, *values, **named)
        if not isinstance(text := getattr(function, "__self__", None), TypedText):
            return self._guard.seen(found)
        of_plain = getattr(plain_of(text), function.__name__)
        return self._as_of_plain(found, super().call(context, of_plain, *map(plain_of, values), **named))

    def _seeing(self, filter: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(filter)  # with the mark by which Jinja knows what else to pass
        def seeing(*values: Any, **named: Any) -> Any:
            found = filter(*values, **named)
            if isinstance(found, str) and any(isinstance(value, TypedText) for value in values):
                return self._as_of_plain(found, filter(*map(plain_of, values), **named))
            return self._guard.seen(found)

        return seeing

    def _as_of_plain(self, found: Any, wanted: Any) -> Any:
        """What came of typed text, but as it reads what comes of the plain text, as with `upper` or `escape`."""
        if isinstance(found, bool | int):
            return wanted
        found = self._guard.seen(found)
        return (
            found if not isinstance(found, str) or plain_of(found) == wanted else self._guard.typed("".join([wanted]))
        )

    def _searched(self, whole: Any) -> Any:
        """What is searched for typed text finds it too, where it is a text of the template's own."""
        whole = self._guard.seen(whole)
        return TypedText(whole) if type(whole) is str else whole

    def _tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: Any = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> Any:
        text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        return self._guard.seen(self._guard.unescaped(text))


class _Operators(NodeTransformer):
    """Filters for `a ~ b` and for the b of `a in b`: Jinja has no other place to say how texts are joined, searched."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return nodes.Filter(nodes.List(node.nodes), "~", [], [], None, None, lineno=node.lineno)

    def visit_Operand(self, node: nodes.Operand) -> nodes.Node:
        self.generic_visit(node)
        if node.op in ("in", "notin"):
            node.expr = nodes.Filter(node.expr, "in", [], [], None, None, lineno=node.lineno)
        return node


class _Generation(Extension):
    """`{% generation %}` marks what the assistant said, for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012  Jinja makes a copy of its own for each environment

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(why: Any) -> None:
    raise jinja2.TemplateError(str(why))
