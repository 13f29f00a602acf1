"""Which examples are asked for, and what cannot be asked for."""

import pytest

from data.examples.example_spec import ExamplesSpec


def test_paths_are_told_from_names_of_corpora():
    spec = ExamplesSpec(sources=("chitchat", "chatterbot/chinese=2", "talks.jsonl", "~/t/*.csv=3", "tfds:lm1b"))
    assert spec.shares == {
        "chitchat": None, "chatterbot/chinese": 2.0, "files:talks.jsonl": None, "files:~/t/*.csv": 3.0,
        "tfds:lm1b": None,
    }  # fmt: skip


def test_a_row_is_no_longer_than_the_context():
    assert ExamplesSpec().row(256) == 256
    assert ExamplesSpec().row(8192) == 512
    assert ExamplesSpec(length=100).row(256) == 100
    with pytest.raises(ValueError, match=r"examples.length=300 is more than the base's context of 256 tokens"):
        ExamplesSpec(length=300).row(256)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sources": ()}, "examples.sources: empty"),
        ({"learn": "lst"}, r"examples.learn='lst'.*last"),
        ({"prefix": True, "learn": "last"}, r"examples.prefix with examples.learn='last'.*examples.learn=all"),
        ({"bad": "drop"}, r"examples.bad='drop'"),
        ({"columns": ("prompt",)}, r"write FIELD=PATH"),
        ({"held_out": 0}, "nothing can be measured"),
        ({"template": "nowhere.jinja"}, "there is no such file"),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(settings, said):
    with pytest.raises(ValueError, match=said):
        ExamplesSpec(**settings)
