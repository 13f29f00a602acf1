"""Which examples a model is tuned on, and how they are read. Imports neither TensorFlow nor JAX."""

import dataclasses
from pathlib import Path
from typing import Literal, get_args

from data.corpora.corpus import corpora
from data.examples.forms import Learn
from data.examples.head_spec import HeadSpec
from data.spec import share_of
from gptjax.files.places import expanded
from gptjax.spelling import did_you_mean

TooLong = Literal["cut", "drop"]
Bad = Literal["stop", "skip"]
OF_CONVERSATIONS = ("form", "columns", "template", "learn", "prefix", "answered")  # settings that heads do not have
LONGEST_ROW = 512  # tokens of a row where nothing else is asked for, and the context has room


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExamplesSpec:
    """Conversations, or with a head labelled texts, to learn from. A source is `NAME` or `NAME=RATE` as for running
    text, or the path of a file, folder or glob of records; without rates, every example is read equally often."""

    sources: tuple[str, ...] = ("chitchat", "crosswoz")  # or files of records; chatterbot/chinese is built in too
    form: str | None = None  # of the records, such as messages or alpaca; None = recognised by their fields
    columns: tuple[str, ...] = ()  # where a field of the form lies, as in prompt=data.question
    learn: Learn = "all"  # which turns of an assistant are learnt: all, the last, or those marked in the records
    bad: Bad = "stop"  # what a record that is no conversation does: end all, or be left out and counted
    prefix: bool = False  # what stands before the first answer is encoded, seen from both sides; kept with the run
    length: int | None = None  # tokens of a row; None = the model's context, at most 512
    too_long: TooLong = "cut"  # a conversation longer than a row: cut between exchanges, or left out
    held_out: int = 200
    """examples of each source to measure by: conversations, a tenth at most; labelled texts, a fifth at most"""
    answered: int = 100  # held-out ones of each source that are answered in the end, where one answer is right
    template: Path | None = None  # a file with a chat template, Jinja; None = the base's own
    head: HeadSpec | None = None  # an output head that learns from labelled texts; None = conversations

    def __post_init__(self):
        if not self.sources:
            raise ValueError("examples.sources: empty; name a file of records or a built-in source such as 'chitchat'")
        object.__setattr__(self, "sources", tuple(map(_named, self.sources)))
        if self.head is not None and self.head.held_out is not None:
            object.__setattr__(self, "head", dataclasses.replace(self.head, held_out=_named(self.head.held_out)))
        if len(self.shares) < len(self.sources):
            raise ValueError(
                f"examples.sources: {list(self.sources)}: one is listed twice; list each once, with a rate"
            )
        if self.template is not None:
            object.__setattr__(self, "template", expanded(self.template))
            if not self.template.is_file():
                raise ValueError(f"examples.template={self.template}: there is no such file")
        for name, kind in (("learn", Learn), ("bad", Bad), ("too_long", TooLong)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(
                    f"examples.{name}={getattr(self, name)!r}{did_you_mean(str(getattr(self, name)), get_args(kind))}"
                )
        if self.prefix and self.learn != "all":
            raise ValueError(
                f"examples.prefix with examples.learn={self.learn!r}: a chat encodes what stands before the first "
                "answer, so that one must be learnt too: examples.learn=all"
            )
        for column in self.columns:
            if "=" not in column:
                raise ValueError(f"examples.columns: {column!r}; write FIELD=PATH, such as prompt=data.question")
        given = [field.name for field in dataclasses.fields(self) if getattr(self, field.name) != field.default]
        if self.head is not None and (alien := [name for name in OF_CONVERSATIONS if name in given]):
            raise ValueError(
                f"examples.{alien[0]}: is of conversations; of labelled texts give --text, --second and "
                "--label, --labels or --value"
            )
        if self.length is not None and self.length < 8:
            raise ValueError(f"examples.length={self.length}: must be at least 8 tokens")
        if self.answered < 0:
            raise ValueError(f"examples.answered={self.answered}: must be 0 or more; 0 answers none")
        if self.held_out < 1:
            raise ValueError(f"examples.held_out={self.held_out}: must be at least 1, or nothing can be measured")

    @property
    def shares(self) -> dict[str, float | None]:
        """Name -> share as written, of every source in order; None where none is."""
        return {(pair := share_of(source))[0]: pair[1] if pair[0] != source else None for source in self.sources}

    @property
    def where(self) -> dict[str, str]:
        """Field of the form -> the dotted path of its column, where it is not the usual one."""
        return dict(column.split("=", 1) for column in self.columns)

    def row(self, context: int) -> int:
        """Tokens of a row for a model of this context. Raises ValueError where it does not fit."""
        if self.length is not None and self.length > context:
            raise ValueError(f"examples.length={self.length} is more than the base's context of {context} tokens")
        return self.length or min(context, LONGEST_ROW)


def _named(source: str) -> str:
    """A source as data/preparation/sources.py names it: what can only be a path becomes `files:PATH`."""
    name = share_of(source)[0]
    known = name in corpora() or name.startswith(("files:", "tfds:")) or not set(name) & set("./~*")
    return source if known else f"files:{source}"
