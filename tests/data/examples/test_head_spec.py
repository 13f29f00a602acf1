"""What a head is asked to learn, and what cannot be asked of it."""

import pytest

from data.examples.example_spec import ExamplesSpec
from data.examples.head_spec import HeadSpec


def test_a_head_is_called_as_its_column_unless_it_has_a_name():
    assert HeadSpec().called == "label"
    assert HeadSpec(kind="values", target="essay.grade").called == "grade"
    assert HeadSpec(target="grade", name="mark").called == "mark"


def test_a_file_to_measure_by_is_a_path_like_those_to_learn_from():
    spec = ExamplesSpec(sources=("reviews.csv",), head=HeadSpec(held_out="test.csv"))
    assert spec.head is not None
    assert spec.head.held_out == "files:test.csv"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "klass"}, "did you mean 'classes'"),
        ({"pool": "men"}, "examples.head.pool='men'; did you mean 'mean'"),
        ({"text": "a", "second": "a"}, "--text and --second are both 'a'"),
        ({"kind": "values", "balanced": True}, "a number has no classes to balance"),
        ({"most": 1}, "must be at least 2 examples"),
        ({"name": ""}, "examples.head.name: empty"),
        ({"target": "a/b"}, "head 'a/b': has a '/', and names the run; give --head NAME without one"),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(settings, said):
    with pytest.raises(ValueError, match=said):
        HeadSpec(**settings)


@pytest.mark.parametrize("given", [{"form": "messages"}, {"prefix": True}, {"learn": "last"}, {"answered": 5}])
def test_settings_of_conversations_are_not_for_labelled_texts(given):
    (name,) = given
    with pytest.raises(ValueError, match=f"examples.{name}: is of conversations; of labelled texts give --text"):
        ExamplesSpec(sources=("reviews.csv",), head=HeadSpec(), **given)
