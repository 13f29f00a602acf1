"""gptjax.command.options: help that lists what is documented, and mistakes in one line that says what was meant."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro

from gptjax.command.options import options, page, read, take


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    """Of the engine."""

    size: int = 4  # cylinders
    fuel: Literal["petrol", "steam"] = "steam"

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"inner.size={self.size}: must be at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Car:
    """What is driven.

    At length.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """How it is called."""
    top_speed: float | None = None  # kilometres an hour; None = as it likes
    doors: tuple[str, ...] = (
        "left",  # where they are
    )
    open: bool = False
    inner: Inner = dataclasses.field(default_factory=Inner)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Own:
    """Of the program."""

    steps: int = 20  # how many
    file: Path | None = None
    loud: bool = False


def test_what_stands_beside_a_field_is_its_help():
    """A comment, also of a default over several lines, or the text below; a default that is nothing is not shown."""
    found = {option.flag: (option.takes, option.says, option.default) for option in options(Car)}
    assert found == {
        "NAME": ("", "How it is called.", ""),
        "--top-speed": ("NUMBER", "kilometres an hour; None = as it likes", ""),
        "--doors": ("TEXT ...", "where they are", "left"),
        "--open": ("", "", ""),
        "--inner.size": ("INT", "cylinders", "4"),
        "--inner.fuel": ("petrol|steam", "", "steam"),
    }


def test_the_help_shows_what_one_needs_and_says_where_the_rest_is(capsys):
    with pytest.raises(SystemExit) as end:
        read(Car, ["--help"], "drive", plain=("name", "inner.size"), beside=(Own,))
    assert not end.value.code
    said = capsys.readouterr().out
    assert said.startswith("usage: drive NAME [OPTIONS]\n\nWhat is driven.\n")
    assert [line.split()[0] for line in said.splitlines() if line.startswith("  ")] == [
        "--steps", "--file", "--loud", "NAME", "--inner.size",
    ]  # fmt: skip
    assert said.endswith("4 more, and what they are: drive --help-all\n")
    assert page(Car, "drive").count("\n  --") == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["x", "--top-sped", "3"], "unknown option '--top-sped'; did you mean '--top-speed'? (drive --help)"),
        (["x", "--size", "3"], "unknown option '--size'; did you mean '--inner.size'? (drive --help)"),
        (["x", "--inner.size", "many"], "--inner.size: 'many' is no whole number (drive --help)"),
        (["x", "--inner.size", "0"], "inner.size=0: must be at least 1 (drive --help)"),
        (["x", "--inner.fuel", "steem"], "--inner.fuel: 'steem'; did you mean 'steam'? (drive --help)"),
        (["x", "--top-speed", "high"], "--top-speed: 'high' is none of {None}|FLOAT (drive --help)"),
        (["x", "y"], "unknown: y (drive --help)"),
        ([], "NAME is missing: How it is called. (drive --help)"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_was_meant(words, said):
    with pytest.raises(ValueError) as error:  # noqa: PT011  all of it is compared
        read(Car, words, "drive")
    assert str(error.value) == said


def test_words_become_settings_over_those_of_a_default():
    """Underscores will do for dashes; a switch is turned off by no-."""
    default = Car(name="a", open=True, doors=("left",), inner=Inner(size=2))
    words = ["b", "--top_speed", "3", "--no-open", "--inner.fuel=petrol", "--doors", "left", "right"]
    assert read(Car, words, "drive", default=default) == Car(
        name="b", top_speed=3.0, open=False, doors=("left", "right"), inner=Inner(size=2, fuel="petrol")
    )


def test_a_program_takes_its_own_words_and_leaves_the_rest():
    """A value may begin with dashes, where it is no option; the last value counts."""
    own, rest = take(Own, ["x", "--steps", "3", "--loud", "--model.D", "8", "--file", "--odd", "--steps=4"])
    assert own == Own(steps=4, file=Path("--odd"), loud=True)
    assert rest == ["x", "--model.D", "8"]
    for words, said in {
        ("--steps",): "--steps: a value must follow",
        ("--steps", "x"): "--steps x: give a whole",
        ("--file", "--steps", "5"): "--file: a value must follow",
        ("--loud=False",): "--loud=False: --loud is a switch",
    }.items():
        with pytest.raises(ValueError, match=said):
            take(Own, words)
