"""Chat templates, as Hugging Face writes them in Jinja: run in a sandbox, and only when a conversation asks for it.

The sandbox keeps a template from anything but text. It does not keep it from taking for ever, or all memory: take
models that talk from people whom you trust.

Source: documentation of transformers, "Writing a chat template"; environment and functions as described there.
"""

import contextlib
import functools
import itertools
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import CodeType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import LoopContext
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
    if not continues:
        return Writing(template, messages, names, tokenizer, tools=tools).text(len(messages))
    given = [*messages[:-1], {**messages[-1], "content": messages[-1]["content"] + CONTINUED}]
    writing = Writing(template, given, names, tokenizer, tools=tools)
    text = writing.text(len(given), add_generation_prompt=False)
    if messages[-1]["content"].strip() not in text.replace(SHIELD, ""):
        raise ValueError(f"{UNCONTINUED}: {messages[-1]['content'].strip()[:60]!r}")
    return _cut(text)


class Writing:
    """A conversation that is written more than once: whole, and up to some of its turns. Arguments: see `render`."""

    def __init__(
        self,
        template: str,
        messages: Sequence[Mapping[str, Any]],
        names: Mapping[str, str],
        tokenizer: Tokenizer,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ):
        given = [_normal(message) for message in messages]
        guard = Guard(tokenizer.added_names, tokenizer.special_names, [template, *texts_in(given), *texts_in(tools)])
        self._typed = [guard.typed(message, message.get("role") == "assistant") for message in given]
        self._offered = {"tools": guard.typed(tools), "documents": None, **names}
        self._environment = _Environment(guard)
        self._parts: tuple[str, list[int], dict[bool, str]] | None = None  # see `prepare_beginnings`
        with _telling():
            code, shared = _code(template), self._environment.make_globals(None)
            self._template = self._environment.template_class.from_code(self._environment, code, shared)

    def text(self, count: int, *, add_generation_prompt: bool = True) -> str:
        """The first `count` messages, and with `add_generation_prompt` the beginning of the assistant's answer."""
        if self._parts is None or not count:
            return self._rendered(count, add_generation_prompt)
        whole, begins, tails = self._parts
        return whole[: begins[count]] + tails[add_generation_prompt]

    def prepare_beginnings(self) -> None:
        """From now on `text` is cut out of the whole text, as far as the template is of the kind that allows it.

        It is for conversations of which many beginnings are asked for: `text` itself does not change. See
        `_loop_over_messages`.
        """
        count, mark = len(self._typed), self._environment.guard.marks[2]
        whole = self._rendered(count, add_generation_prompt=False)
        parts = self._marked(mark).split(mark)  # what is before the messages, each of them, what is behind
        if len(parts) != count + 2 or not count or "".join(parts) != whole:
            return
        begins = [*itertools.accumulate(map(len, parts[:-1]))]
        one = self._rendered(1, add_generation_prompt=True)
        if one.startswith(whole[: begins[1]]):
            self._parts = whole, begins, {True: one[begins[1] :], False: parts[-1]}

    def generated(self) -> list[tuple[int, int]]:
        """What of the whole text is in `{% generation %}`: (first, one past the last) character of each stretch.

        Raises ValueError where the template writes such a stretch, and then changes it.
        """
        begin, end, _ = self._environment.guard.marks
        marked = self._marked(begin + end)
        text, found = "", []
        for number, part in enumerate(re.split(f"[{begin}{end}]", marked)):
            if number % 2:
                found.append((len(text), len(text) + len(part)))
            text += part
        in_turn = re.sub(f"[^{begin}{end}]", "", marked) == (begin + end) * len(found)
        if not in_turn or text != self.text(len(self._typed), add_generation_prompt=False):
            raise ValueError("the model's chat template changes what it has in {% generation %}; spans cannot be told")
        return found

    def _marked(self, marks: str) -> str:
        """The whole text with some of the guard's marks in it."""
        self._environment.marks = marks
        text = self._rendered(len(self._typed), add_generation_prompt=False)
        self._environment.marks = ""
        return text

    def _rendered(self, count: int, add_generation_prompt: bool) -> str:
        offered = {"messages": self._typed[:count], "add_generation_prompt": add_generation_prompt, **self._offered}
        with _telling():
            text = self._template.render(offered)
        return self._environment.guard.shielded(text)


@contextlib.contextmanager
def _telling() -> Iterator[None]:
    """A template can raise whatever an expression can."""
    try:
        yield
    except (Exception, MemoryError) as error:
        why = str(error) or type(error).__name__  # a MemoryError says nothing
        raise ValueError(f"the model's chat template cannot write this conversation: {why}") from error


@functools.lru_cache(maxsize=8)
def _code(template: str) -> CodeType:
    """A template compiled: it takes 20 ms or so, and names the filters of its environment, whichever renders it."""
    environment = _Environment(Guard((), (), (template,)))
    tree = environment.parse(template)
    if (loop := _loop_over_messages(tree)) is not None:
        loop.body.insert(0, mark := nodes.Output([_Generation.mark_of(environment, 2)], lineno=loop.lineno))
        tree.body.insert(tree.body.index(loop) + 1, mark)
    return environment.compile(_Operators().visit(tree))


def _loop_over_messages(tree: nodes.Template) -> nodes.For | None:
    """The loop of a template that writes something, then each message by itself, then something; else None.

    What is before and in the loop does not know which message is the last, nor whether an answer is asked for, and
    nothing is kept from one message for the next or for what is behind. So the text of the first messages is the
    beginning of the text of all, and what is behind is the same of any number of messages but none.
    """
    loops = [node for node in tree.body if isinstance(node, nodes.For)]
    kept = (nodes.Macro, nodes.CallBlock, nodes.Block, nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
    if len(loops) != 1 or next(tree.find_all((*kept, nodes.NSRef, nodes.Break)), None):
        return None
    (loop,) = loops
    uses = Counter(name.name for name in tree.find_all(nodes.Name))
    first = [node for node in tree.find_all(nodes.Getitem) if node.arg == nodes.Const(0)]
    known = {
        "messages": 1 + sum(node.node == nodes.Name("messages", "load") for node in first),
        "loop": sum(
            node.node == nodes.Name("loop", "load") and node.attr in ("first", "index", "index0")
            for node in tree.find_all(nodes.Getattr)
        ),
        "add_generation_prompt": sum(
            name.name == "add_generation_prompt"
            for behind in tree.body[tree.body.index(loop) + 1 :]
            for name in (behind, *behind.find_all(nodes.Name))
            if isinstance(name, nodes.Name)
        ),
        **dict.fromkeys(("namespace", "cycler", "joiner", "lipsum", "self"), 0),
    }
    sets = [len([*part.find_all((nodes.Assign, nodes.AssignBlock))]) for part in (tree, loop)]
    plain = sets[0] == sets[1] and loop.iter == nodes.Name("messages", "load") and isinstance(loop.target, nodes.Name)
    plain = plain and not (loop.test or loop.else_ or loop.recursive)
    plain = plain and all(node.name != "random" for node in tree.find_all(nodes.Filter))
    return loop if plain and all(uses[name] == count for name, count in known.items()) else None


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
        self.guard, self.marks = guard, ""  # marks: those that are written
        self.filters = {name: self._seeing(filter) for name, filter in self.filters.items()} | {"tojson": self._tojson}
        self.filters["~"] = lambda parts: guard.seen("".join(map(str, parts)))
        self.filters["in"] = self._searched
        self.globals |= {"raise_exception": _refuse, "strftime_now": time.strftime}
        self.concat = lambda parts: guard.seen("".join(parts))

    def getattr(self, obj: Any, attribute: str) -> Any:
        """As in any sandbox, and at once where a template asks its loop how far it is."""
        if type(obj) is LoopContext and attribute in ("first", "index", "index0"):
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)

    def call(self, context: Any, function: Any, /, *values: Any, **named: Any) -> Any:
        found = super().call(context, function, *values, **named)
        if not isinstance(text := getattr(function, "__self__", None), TypedText):
            return self.guard.seen(found)
        of_plain = getattr(plain_of(text), function.__name__)
        return self._as_of_plain(found, super().call(context, of_plain, *map(plain_of, values), **named))

    def _seeing(self, filter: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(filter)  # with the mark by which Jinja knows what else to pass
        def seeing(*values: Any, **named: Any) -> Any:
            found = filter(*values, **named)
            if isinstance(found, str) and any(isinstance(value, TypedText) for value in values):
                return self._as_of_plain(found, filter(*map(plain_of, values), **named))
            return self.guard.seen(found)

        return seeing

    def _as_of_plain(self, found: Any, wanted: Any) -> Any:
        """What came of typed text, but as it reads what comes of the plain text, as with `upper` or `escape`."""
        if isinstance(found, bool | int):
            return wanted
        found = self.guard.seen(found)
        return found if not isinstance(found, str) or plain_of(found) == wanted else self.guard.typed("".join([wanted]))

    def _searched(self, whole: Any) -> Any:
        """What is searched for typed text finds it too, where it is a text of the template's own."""
        whole = self.guard.seen(whole)
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
        return self.guard.seen(self.guard.unescaped(text))


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
    """`{% generation %}` tells what the assistant said, for training: see `Writing.generated`."""

    tags = {"generation"}  # noqa: RUF012  Jinja makes a copy of its own for each environment

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        begin, end = (nodes.Output([self.mark_of(self.environment, place)], lineno=line) for place in (0, 1))
        return [begin, *body, end]

    @classmethod
    def mark_of(cls, environment: jinja2.Environment, place: int) -> nodes.Expr:
        """What in a template writes one of the guard's marks, whenever these are asked for."""
        return environment.extensions[cls.identifier].call_method("mark", [nodes.Const(place)])

    def mark(self, place: int) -> str:
        environment: Any = self.environment
        mark = environment.guard.marks[place]
        return mark if mark in environment.marks else ""


def _refuse(why: Any) -> None:
    raise jinja2.TemplateError(str(why))
