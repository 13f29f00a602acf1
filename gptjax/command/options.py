"""The command lines of all programs: one look of help, one line for a mistake. Does not import JAX.

What a program takes is a dataclass: its docstring and its fields, with the comment beside each or the text below it,
are the help. Nested dataclasses are dotted options, as in --model.D 128.
"""

import ast
import contextlib
import dataclasses
import difflib
import functools
import inspect
import io
import os
import re
import shutil
import sys
import textwrap
import tokenize
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import tyro

from gptjax.spelling import did_you_mean

USER_ERROR = 2  # exit status
WIDEST = 110  # columns of help
COLUMN = 30  # where what an option is begins
LONGEST_DEFAULT = 60  # letters of a default that are shown


class Option(NamedTuple):
    """One setting on the command line."""

    path: str  # model.D
    flag: str  # --model.D; of a positional argument its name
    takes: str  # what must follow: INT
    says: str
    default: str  # "" = none is shown
    positional: bool


def read[T](
    kind: type[T], words: Sequence[str], program: str, *,
    default: T | None = None, about: str | None = None, plain: Collection[str] | None = None,
    beside: Sequence[type] = (),
) -> T:  # fmt: skip
    """The dataclass that the words ask for, from its defaults or those of `default`. --help prints and exits.

    `plain`: paths of the options that --help shows, None = all; --help-all shows every one. `beside`: dataclasses whose
    options the program has taken out of the words already, for the help.

    Raises ValueError, in one line, for an option that there is not, a value that cannot be, and one that is missing.
    """
    answer_help(kind, words, program, default=default, about=about, plain=plain, beside=beside)
    known = [option for part in (*beside, kind) for option in options(part, default if part is kind else None)]
    flags = [option.flag for option in known if not option.positional]
    for word in words:
        flag = word.partition("=")[0].replace("_", "-")
        if flag.startswith("--") and flag not in (_bare(known) | {"--"}) and " " not in flag:
            raise ValueError(f"unknown option {word.partition('=')[0]!r}{meant(flag, flags)} ({program} --help)")
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box), _wide():
            # what is off in a default is switched on by a dataclass that has it, not by a subcommand
            off = (tyro.conf.AvoidSubcommands,)
            made = tyro.cli(kind, args=list(words), prog=program, default=default, config=off, add_help=False)
            assert made is not None
            return made
    except SystemExit as end:
        if end.code != USER_ERROR:
            raise
        said = first_message(box.getvalue())
        lacking = next((option for option in known if said == f"{option.flag} is missing"), None)
        what = "" if lacking is None else f": {lacking.says}"
        raise ValueError(f"{said}{what} ({program} --help)") from None


def take[T](kind: type[T], words: Sequence[str]) -> tuple[T, list[str]]:
    """(a flat dataclass, whose options may be anywhere among the words; the other words, which are for another one).

    A positional field is the first word, or follows --NAME; its last value counts, as of all options.

    Raises ValueError where a value is missing or none of its kind.
    """
    found: dict[str, Any] = {}
    hints, others, left = get_type_hints(kind), [], iter(words)
    names = {option.flag if not option.positional else f"--{option.path}": option.path for option in options(kind)}
    places = [option.path for option in options(kind) if option.positional]
    if places and words and not words[0].startswith("-"):
        found[places[0]] = next(left)
    for word in left:
        flag, equals, value = word.partition("=")
        if (name := names.get(flag.replace("_", "-"))) is None:
            others.append(word)
        elif hints[name] is bool:
            if equals:
                raise ValueError(f"{word}: {flag} is a switch, which takes no value; leave it out to leave it off")
            found[name] = True
        else:
            given = value if equals else next(left, None)
            if given is None or given.partition("=")[0].replace("_", "-") in names:
                raise ValueError(f"{flag}: a value must follow")
            found[name] = _value(flag, given, {hints[name], *get_args(hints[name])})
    return kind(**found), others


def _value(flag: str, given: str, kinds: Collection[Any]) -> Any:
    """What follows an option of `take`."""
    if int in kinds:
        if not re.fullmatch(r"-?\d+", given):
            raise ValueError(f"{flag} {given}: give a whole number")
        return int(given)
    if float in kinds:
        if not re.fullmatch(r"-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", given):
            raise ValueError(f"{flag} {given}: give a number")
        return float(given)
    return Path(given) if Path in kinds else given


def answer_help(
    kind: type, words: Sequence[str], program: str, *, default: Any = None, about: str | None = None,
    plain: Collection[str] | None = None, beside: Sequence[type] = (),
) -> None:  # fmt: skip
    """Prints the help and exits, if the words ask for it."""
    if {"-h", "--help", "--help-all"} & set(words):
        shown = None if "--help-all" in words else plain
        print(page(kind, program, default=default, about=about, plain=shown, beside=beside))
        sys.exit(0)


def page(
    kind: type, program: str, *, default: Any = None, about: str | None = None, plain: Collection[str] | None = None,
    beside: Sequence[type] = (),
) -> str:  # fmt: skip
    """The help: usage, what it is about, then the options in groups, `plain` ones or all."""
    width = min(WIDEST, max(60, shutil.get_terminal_size((WIDEST, 0)).columns))
    own = [option for part in beside for option in options(part)]
    taken = {option.path for option in own}
    every = own + [option for option in options(kind, default) if option.path not in taken]
    shown = [option for option in every if plain is None or option.path in plain or option in own]
    groups: dict[str, list[Option]] = {}
    for option in shown:
        group = "" if option.positional else option.flag.lstrip("-").rpartition(".")[0]
        groups.setdefault(group, []).append(option)
    words = "".join(f" {option.flag}" for option in shown if option.positional)
    text = inspect.cleandoc(kind.__doc__ or "" if about is None else about)
    lines = [f"usage: {program}{words} [OPTIONS]", "", *_paragraphs(text, width)]
    for group, found in groups.items():
        heading = [f"{group or 'options'}:"] if plain is None or not group else []  # the flags say as much
        lines += ["", *heading, *(line for option in found for line in _lines(option, width))]
    if plain is not None:
        lines += ["", f"{len(every) - len(shown)} more, and what they are: {program} --help-all"]
    return "\n".join(lines)


def options(kind: type, default: Any = None, path: str = "") -> list[Option]:
    """The options of a dataclass, nested ones too."""
    found = []
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        if not field.init:
            continue
        hint, marks = _unmarked(hints[field.name])
        value = getattr(default, field.name) if default is not None else _default(field)
        inner = type(value) if dataclasses.is_dataclass(value) else hint
        if dataclasses.is_dataclass(inner):
            below = "" if tyro.conf.OmitArgPrefixes in marks else f"{path}{field.name}."
            found += options(inner, None if value is dataclasses.MISSING else value, below)  # pyright: ignore[reportArgumentType]
            continue
        name = f"{path}{field.name}"
        positional = tyro.conf.Positional in marks
        metavar = next((mark.metavar for mark in marks if getattr(mark, "metavar", None)), None)
        found.append(
            Option(
                path=name,
                # a word of Python's, as `as_`, is an option without its last letter
                flag=(metavar or field.name.upper()) if positional else f"--{name.rstrip('_').replace('_', '-')}",
                takes="" if positional else metavar or _takes(hint),
                says=says(kind).get(field.name, "")
                + (f" {_takes(hint)}" if positional and get_origin(hint) is Literal else ""),
                default=_shown(value),
                positional=positional,
            )
        )
    return found


@functools.cache
def says(kind: type) -> Mapping[str, str]:
    """What a dataclass says of each field: in its metadata, the text below it, or the comment beside it."""
    found: dict[str, str] = {}
    for part in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(part):
            continue
        with contextlib.suppress(OSError, TypeError):  # made while running, or built in
            found |= _written_beside(textwrap.dedent(inspect.getsource(part)))
        found |= {field.name: field.metadata["help"] for field in dataclasses.fields(part) if "help" in field.metadata}
    return found


def _written_beside(source: str) -> dict[str, str]:
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and not token.string.startswith(("# noqa", "# fmt", "# pyright"))
    }
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        text = " ".join(comments[line] for line in lines if line in comments)
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text = inspect.cleandoc(str(after.value.value))
        found[node.target.id] = text
    return found


def first_message(box: str) -> str:
    """What tyro says in the box that it draws round an error, up to the first rule in it."""
    lines = [line.strip("│ ") for line in box.splitlines()]
    lines = [line for line in lines if line and not re.match(r"╭─", line)]
    rules = [number for number, line in enumerate(lines) if re.fullmatch(r"[─-]+|╰─+╯", line)]
    if "╭" not in box:  # in ASCII, as where a terminal has no more: the heading has a rule below it
        lines, rules = lines[2:], [number - 2 for number in rules[1:]]
    text = " ".join(lines[: rules[0]] if rules else lines).replace("Unrecognized options:", "unknown:")
    if choice := re.match(r"invalid choice '(.*)' for argument '(.*)'. Expected one of \((.*)\)", text):
        return f"{choice[2]}: {choice[1]!r}{did_you_mean(choice[1], re.findall(r"'(.*?)'", choice[3]))}"
    if missing := re.match(r"Missing from .*?: (\S+)", text):
        return f"{missing[1]} is missing"
    of_field = re.match(r"Error parsing (\S+): (.*)", text, re.DOTALL)
    if of_field is None:
        return text
    option, problem = of_field[1], of_field[2]
    if kinds := re.match(r"no type matching (\S+) could be instantiated from \[(.*?)\]", problem):
        problem = f"{kinds[2]} is none of {kinds[1]}"
    problem = re.sub(r"invalid literal for int\(\) with base 10: (.*)", r"\1 is no whole number", problem)
    problem = re.sub(r"could not convert string to float: (.*)", r"\1 is no number", problem)
    return problem if re.match(r"[\w.]+[=:]", problem) else f"{option}: {problem}"


def print_mistake(error: Exception) -> int:
    """Prints a mistake in one line; returns the exit status of it."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return USER_ERROR


def meant(flag: str, flags: Collection[str]) -> str:
    """`; did you mean '--x'?` for the nearest option, by its whole name or by its last part."""
    last = {known.rpartition(".")[2].lstrip("-"): known for known in reversed(list(flags))}
    near = difflib.get_close_matches(flag, flags, n=1, cutoff=0.75)
    near = near or [last[name] for name in difflib.get_close_matches(flag.rpartition(".")[2].lstrip("-"), last, n=1)]
    return f"; did you mean {near[0]!r}?" if near else did_you_mean(flag, flags) if len(flags) <= 30 else ""


def _bare(known: Sequence[Option]) -> set[str]:
    """All spellings that an option has: a switch can be turned off too."""
    flags = {option.flag for option in known if not option.positional}
    off = {re.sub(r"([^.]+)$", r"no-\1", flag.lstrip("-")) for flag in flags}
    return {flag.replace("_", "-") for flag in flags | {f"--{flag}" for flag in off}}


@contextlib.contextmanager
def _wide() -> Iterator[None]:
    """In here boxes are as wide as what they say, so that no word is cut."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "10000"
    try:
        yield
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before


def _unmarked(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """(the type, what was annotated beside it)."""
    if get_origin(hint) is Annotated:
        inner, *marks = get_args(hint)
        deeper, more = _unmarked(inner)
        return deeper, (*more, *marks)
    return hint, ()


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _takes(hint: Any) -> str:
    """What must follow an option of this type."""
    origin, parts = get_origin(hint), [part for part in get_args(hint) if part is not NoneType]
    if origin in (Union, UnionType):
        kinds = dict.fromkeys(map(_takes, parts))
        return "|".join(kind for kind in kinds if kind != "INT" or "NUMBER" not in kinds)  # which an INT is
    if origin is Literal:
        return "|".join(map(str, parts))
    if origin is tuple:
        inner = [part for part in parts if part is not Ellipsis]
        each = " ".join(map(_takes, inner))
        return f"{each} ..." if Ellipsis in parts else each
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return f"{' '.join(map(_takes, parts))} ..."
    if hint is bool:
        return ""
    return {str: "TEXT", int: "INT", float: "NUMBER", Path: "PATH"}.get(hint, getattr(hint, "__name__", "TEXT").upper())


def _shown(value: Any) -> str:
    """A default, shortened; "" where there is none, or nothing."""
    if value is dataclasses.MISSING or value is None or value is False or value in ((), {}, ""):
        return ""
    if isinstance(value, Mapping):
        value = [part for pair in value.items() for part in pair]
    if isinstance(value, list | tuple):
        value = " ".join(str(part) if not isinstance(part, tuple) else " ".join(map(str, part)) for part in value)
    return textwrap.shorten("on" if value is True else str(value), LONGEST_DEFAULT, placeholder=" ...")


def _paragraphs(text: str, width: int) -> list[str]:
    """Prose wrapped, indented lines as they are."""
    lines: list[str] = []
    for block in re.split(r"\n\s*\n", text):
        if lines:
            lines.append("")
        prose = not any(line.startswith(" ") for line in block.splitlines())
        lines += textwrap.wrap(" ".join(block.split()), width) if prose else block.splitlines()
    return lines


def _lines(option: Option, width: int) -> list[str]:
    """An option's flag, and what it is in a column beside it."""
    name = f"  {option.flag}{option.takes and ' '}{option.takes}"
    text = f"{option.says} (default: {option.default})" if option.default else option.says
    first, *more = textwrap.wrap(text.strip(), width - COLUMN, break_on_hyphens=False) or [""]
    if len(name) > COLUMN - 2:
        return [name, *(" " * COLUMN + line for line in (first, *more))]
    return [f"{name:<{COLUMN}}{first}".rstrip(), *(" " * COLUMN + line for line in more)]
