"""Forms of examples: what fields a record has, and what conversation it is.

A form reads its parts from columns, dotted paths that whoever has other names sets. Who speaks is told by fields alone:
a role that stands within a text is text.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from gptjax.spelling import did_you_mean
from gptjax.text.record_files import column

Learn = Literal["all", "last", "marked"]  # assistant turns: every one, the last, or all but those marked not to be
ROLES = {  # as files write them -> as we do
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "tool": "tool",
    "function": "tool",
}
BEFORE = {  # role -> after whom it may speak; None = it may begin
    "system": {None},
    "user": {None, "system", "assistant"},
    "assistant": {"user", "tool"},
    "tool": {"assistant"},
}
MARKS = ("learn", "weight")  # what says of a turn whether it is learned: true, false, 1 or 0


class Message(NamedTuple):
    """A turn, and whether it is learned, which only what the assistant says may be."""

    role: str  # system, user, assistant or tool
    content: str
    learn: bool


class Conversation(NamedTuple):
    """Turns in order: system first if at all, then user and assistant in turn, tools after an assistant; it ends with
    an assistant."""

    messages: tuple[Message, ...]
    group: str  # what must stay on one side of the split: the context or prompt, else the whole
    where: str  # file:line, file:record N


class Turn(NamedTuple):
    """As it stands in a record."""

    role: str
    content: str
    marked: bool | None = None  # whether it is to be learned; None = nothing is said


class _Read(NamedTuple):
    turns: Sequence[Turn]
    group: str | None  # None = the whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """How a record of a kind becomes turns."""

    columns: Mapping[str, tuple[str, ...]]  # part -> where it may lie; the first that there is
    optional: tuple[str, ...] = ()
    listed: tuple[str, str] | None = None  # of a part that lists turns: the names of role and content in each
    read: Callable[[Mapping[str, Any], str], _Read]

    @property
    def needed(self) -> str:
        """Its fields, as errors list them."""
        return ", ".join(" or ".join(paths) for part, paths in self.columns.items() if part not in self.optional)

    def fits(self, record: Mapping[str, Any]) -> bool:
        """Whether a record has the fields of this form, under their usual names."""
        found = [
            next((record[path] for path in paths if path in record), None)
            for part, paths in self.columns.items()
            if part not in self.optional
        ]
        if self.listed is None:
            return all(value is not None for value in found)
        (turns,) = found
        return isinstance(turns, list) and all(isinstance(turn, dict) and self.listed[0] in turn for turn in turns)


def _messages(parts: Mapping[str, Any], where: str) -> _Read:
    return _Read(_listed(parts["messages"], ("role", "content"), where), None)


def _sharegpt(parts: Mapping[str, Any], where: str) -> _Read:
    turns = _listed(parts["conversations"], ("from", "value"), where)
    return _Read([*_system(parts, where), *turns], None)


def _alpaca(parts: Mapping[str, Any], where: str) -> _Read:
    asked = _text(parts["instruction"], f"{where}: instruction")
    if given := _text(parts.get("input", ""), f"{where}: input"):
        asked += f"\n{given}"
    history = parts.get("history", [])
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise ValueError(f"{where}: history={history!r} must be a list of pairs, [what was asked, what was answered]")
    earlier = [
        Turn(role, _text(text, f"{where}: history"))
        for pair in history
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    return _Read([*_system(parts, where), *earlier, *_exchange(asked, parts["output"], where)], asked)


def _prompt_completion(parts: Mapping[str, Any], where: str) -> _Read:
    prompt = _text(parts["prompt"], f"{where}: prompt")
    return _Read([*_system(parts, where), *_exchange(prompt, parts["completion"], where)], prompt)


def _question_answer(parts: Mapping[str, Any], where: str) -> _Read:
    """Of several answers the first; SQuAD's are {"text": [...]}."""
    question, context = (_text(parts.get(part, ""), f"{where}: {part}") for part in ("question", "context"))
    answer = parts["answer"]
    if isinstance(answer, Mapping):
        answer = column(answer, "text", f"{where}: answer")
    if isinstance(answer, list):
        if not answer:
            raise ValueError(f"{where}: has no answer; leave it out")
        answer = answer[0]
    asked = f"{context}\n\n{question}" if context else question
    return _Read(_exchange(asked, answer, where), context or question)


def _source_target(parts: Mapping[str, Any], where: str) -> _Read:
    source = _text(parts["source"], f"{where}: source")
    return _Read(_exchange(source, parts["target"], where), source)


FORMS: dict[str, Form] = {
    "messages": Form(columns={"messages": ("messages",)}, listed=("role", "content"), read=_messages),
    "sharegpt": Form(
        columns={"conversations": ("conversations",), "system": ("system",)},
        optional=("system",),
        listed=("from", "value"),
        read=_sharegpt,
    ),
    "alpaca": Form(
        columns={name: (name,) for name in ("instruction", "input", "output", "system", "history")},
        optional=("input", "system", "history"),
        read=_alpaca,
    ),
    "prompt_completion": Form(
        columns={"prompt": ("prompt",), "completion": ("completion", "response"), "system": ("system",)},
        optional=("system",),
        read=_prompt_completion,
    ),
    "question_answer": Form(
        columns={"question": ("question",), "context": ("context",), "answer": ("answer", "answers")},
        optional=("context",),
        read=_question_answer,
    ),
    "source_target": Form(columns={"source": ("source",), "target": ("target",)}, read=_source_target),
}


def recognised(record: Mapping[str, Any], where: str) -> str:
    """The name of the one form that a record has. Raises ValueError where none fits, or several."""
    names = [name for name, form in FORMS.items() if form.fits(record)]
    if len(names) == 1:
        return names[0]
    if names:
        raise ValueError(f"{where}: may be read as {' or as '.join(names)}; name the form that is meant")
    known = "; ".join(f"{name} ({form.needed})" for name, form in FORMS.items())
    raise ValueError(
        f"{where}: the fields {', '.join(map(str, record)) or '(none)'} are of no form that is known: {known}. "
        "Name the form, and for each of its fields the one that holds it"
    )


def check_form(form: str, columns: Mapping[str, str]) -> None:
    """Raises ValueError for a form, or for a part of it, that there is not."""
    if form not in FORMS:
        raise ValueError(f"form={form!r}: there is none of this name{did_you_mean(form, FORMS)}")
    for part in columns:
        if part not in FORMS[form].columns:
            raise ValueError(f"columns: {form} has no {part!r}{did_you_mean(part, FORMS[form].columns)}")


def conversation(
    record: Mapping[str, Any], where: str, form: str, columns: Mapping[str, str], learn: Learn
) -> Conversation:
    """The conversation that a record holds.

    `columns`: part of the form -> dotted path, for those that lie elsewhere than usual. Turns at the end that no
    assistant answers are dropped. Raises ValueError, which begins with `where`, for what is no conversation.
    """
    check_form(form, columns)
    turns, group = FORMS[form].read(_parts(record, where, FORMS[form], columns), where)
    turns = [turn._replace(role=_role(turn.role, f"{where}: turn {n}")) for n, turn in enumerate(turns, start=1)]
    _check(turns, where)
    while turns[-1].role != "assistant":
        turns.pop()
    learned = _learned(turns, learn, where)
    messages = [Message(turn.role, turn.content, n in learned) for n, turn in enumerate(turns)]
    whole = "\n".join(f"{message.role}: {message.content}" for message in messages)
    return Conversation(tuple(messages), whole if group is None else group, where)


def _parts(record: Mapping[str, Any], where: str, form: Form, columns: Mapping[str, str]) -> dict[str, Any]:
    """The parts that a record has; those that are null or, of optional ones, not there are left out."""
    found = {}
    for part, usual in form.columns.items():
        paths = [columns[part]] if part in columns else [path for path in usual if path in record] or usual[:1]
        if part in form.optional and part not in columns and paths[0] not in record:
            continue
        value = column(record, paths[0], where)
        if value is not None:
            found[part] = value
        elif part not in form.optional:
            raise ValueError(f"{where}: {paths[0]} is null; leave the record out, or give it a text")
    return found


def _listed(value: Any, names: tuple[str, str], where: str) -> list[Turn]:
    """The turns of a list of objects."""
    if not isinstance(value, list):
        raise ValueError(f"{where}: a {type(value).__name__} where turns must be listed: [{{{names[0]!r}: ...}}, ...]")
    turns = []
    for number, turn in enumerate(value, start=1):
        place = f"{where}: turn {number}"
        if not isinstance(turn, Mapping):
            raise ValueError(f"{place}: a {type(turn).__name__}; a turn is an object with {names[0]} and {names[1]}")
        calls = _calls(turn.get("tool_calls") or [], place)
        content = turn.get(names[1]) if calls else column(turn, names[1], place)
        said = [_text(content, f"{place}: {names[1]}")] if content or not calls else []
        role = str(column(turn, names[0], place))
        turns.append(Turn(role, "\n".join([*said, *calls]), _marked(turn, place)))
    return turns


def _calls(calls: Any, where: str) -> list[str]:
    """Calls of tools as text, each between marks, as Hermes and models after it write them."""
    if not isinstance(calls, list):
        raise ValueError(f"{where}: tool_calls={calls!r} must be a list")
    texts = []
    for number, call in enumerate(calls):
        function = column({"tool_calls": calls}, f"tool_calls.{number}.function", where)
        name, arguments = (column(call, f"function.{part}", where) for part in ("name", "arguments"))
        if isinstance(arguments, str):  # as OpenAI writes them
            try:
                arguments = json.loads(arguments)
            except ValueError:
                raise ValueError(
                    f"{where}: the arguments of {function['name']!r} are not JSON: {arguments!r}"
                ) from None
        said = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
        texts.append(f"<tool_call>\n{said}\n</tool_call>")
    return texts


def _marked(turn: Mapping[str, Any], where: str) -> bool | None:
    for name in MARKS:
        if (mark := turn.get(name)) is not None:
            if mark not in (0, 1):
                raise ValueError(f"{where}: {name}={mark!r} must be true, false, 1 or 0")
            return bool(mark)
    return None


def _text(value: Any, where: str) -> str:
    """A text, or the texts of a list of parts, one after the other."""
    if isinstance(value, list) and all(isinstance(part, Mapping) for part in value):
        if others := [str(part.get("type")) for part in value if part.get("type") != "text"]:
            raise ValueError(f"{where}: a part of the type {others[0]!r}; only text is read")
        return "".join(_text(column(part, "text", where), where) for part in value)
    if not isinstance(value, str):
        raise ValueError(f"{where}: a {type(value).__name__} where a text must be")
    return value


def _system(parts: Mapping[str, Any], where: str) -> list[Turn]:
    """The system's turn, of forms that have a field for it; none where it is empty."""
    text = _text(parts.get("system", ""), f"{where}: system")
    return [Turn("system", text)] if text else []


def _exchange(asked: str, answer: Any, where: str) -> list[Turn]:
    return [Turn("user", asked), Turn("assistant", _text(answer, f"{where}: the answer"))]


def _role(name: str, where: str) -> str:
    if name not in ROLES:
        raise ValueError(f"{where}: unknown role {name!r}{did_you_mean(name, ROLES)}")
    return ROLES[name]


def _check(turns: Sequence[Turn], where: str) -> None:
    """Raises ValueError for turns that are empty or in an order that no conversation has."""
    before = None
    for number, turn in enumerate(turns, start=1):
        if before not in BEFORE[turn.role]:
            after = f"after {before}" if before else "at the beginning"
            raise ValueError(
                f"{where}: turn {number}: {turn.role} {after}; a system turn comes first if at all, then user and "
                "assistant speak in turn, and a tool answers an assistant"
            )
        if not turn.content.strip():
            raise ValueError(f"{where}: turn {number}: {turn.role} says nothing; leave the record out")
        if turn.marked and turn.role != "assistant":
            raise ValueError(f"{where}: turn {number}: {turn.role} is marked to be learned; only an assistant can be")
        before = turn.role
    if all(turn.role != "assistant" for turn in turns):
        raise ValueError(f"{where}: has no assistant turn, so there is nothing to learn; leave it out")


def _learned(turns: Sequence[Turn], learn: Learn, where: str) -> set[int]:
    """The numbers of the turns that are learned. Raises ValueError where there is none, or marks say otherwise."""
    answers = [number for number, turn in enumerate(turns) if turn.role == "assistant"]
    if learn == "marked":
        if chosen := {number for number in answers if turns[number].marked is not False}:
            return chosen
        raise ValueError(f"{where}: every assistant turn is marked not to be learned; leave it out")
    chosen = set(answers[-1:] if learn == "last" else answers)
    if refused := [number + 1 for number in chosen if turns[number].marked is False]:
        raise ValueError(
            f"{where}: turn {min(refused)} is marked not to be learned, and learn={learn!r} learns it; "
            "set learn to 'marked', which heeds the marks"
        )
    return chosen
