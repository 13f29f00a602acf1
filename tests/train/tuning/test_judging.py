"""The words of a command line that ask for a head, and what contradicts itself among them."""

from pathlib import Path

import pytest

from data.examples.head_spec import HeadSpec
from data.spec import DataSpec
from gptjax.command.options import take
from train.recipe import ValidationSpec
from train.tuning.judging import AskedHead, head_of, measured_often
from train.tuning.tune_recipe import TuneRecipe


def asked(*words):
    found, rest = take(AskedHead, words)
    return head_of(found), rest


def test_the_words_name_kind_and_columns_and_leave_all_others():
    words = ("runs/base", "--as", "classes", "--text", "a", "--second=b", "--label", "c", "--head", "d", "--steps", "4")
    head, rest = asked(*words)
    assert head == HeadSpec(kind="classes", text="a", second="b", target="c", name="d")
    assert rest == ["runs/base", "--steps", "4"]
    assert asked("runs/base", "--steps", "4") == (None, ["runs/base", "--steps", "4"])


@pytest.mark.parametrize(
    ("words", "kind", "called"),
    [
        (("--label", "verdict"), None, "verdict"),
        (("--labels", "a.tags"), "labels", "tags"),
        (("--value", "grade"), "values", "grade"),
        (("--as", "values"), "values", "value"),
    ],
)
def test_the_kind_follows_from_how_the_column_is_named_and_the_head_is_called_so(words, kind, called):
    head, _ = asked(*words)
    assert (head.kind, head.called) == (kind, called)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--as", "klasses"), "--as klasses; did you mean 'classes'"),
        (("--as", "values", "--label", "grade"), "--as values with --label: values are named with --value grade"),
        (("--label", "a", "--value", "b"), "--label and --value: a head tells one thing"),
        (("--text", "a"), "--text: is of labelled texts; say what is told of them: --as"),
    ],
)
def test_words_that_contradict_each_other_are_refused(words, said):
    with pytest.raises(ValueError, match=said):
        asked(*words)


def test_a_run_is_measured_often_unless_it_was_said_how_often_even_as_by_default():
    every = ValidationSpec().every
    recipe = TuneRecipe(base="base", data=DataSpec(sources=("chitchat",)), run=Path("run"), steps=400)
    assert measured_often(recipe, {"steps"}).validation.every == 20
    assert measured_often(recipe, {"validation.every"}).validation.every == every
