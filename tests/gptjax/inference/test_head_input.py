"""gptjax.inference.head_input: one text, or two, as a head was taught to read them."""

import dataclasses

import pytest

from gptjax.batch import ClassHead
from gptjax.inference.head_input import fitted, head_ids, head_inputs, head_named
from gptjax.text.tokenizer import Tokenizer
from gptjax.text.tokenizer_rules import byte_rules

CHARACTERS = Tokenizer(byte_rules())
BOS, EOS = CHARACTERS.bos, CHARACTERS.eos
ONE = ClassHead(name="mood", classes=("good", "bad"))
TWO = dataclasses.replace(ONE, name="same", two=True)


def ids(text):
    return CHARACTERS.encode(text)


def test_a_text_stands_between_bos_and_eos_and_of_two_each_has_its_eos():
    assert head_ids(CHARACTERS, ONE, "Good") == [BOS, *ids("Good"), EOS]
    assert head_ids(CHARACTERS, TWO, "Good", "bad") == [BOS, *ids("Good"), EOS, *ids("bad"), EOS]


def test_many_at_once_are_read_as_each_alone():
    texts = ["Good", "A far longer text", "好"]
    assert [one.ids for one in head_inputs(CHARACTERS, ONE, texts)] == [head_ids(CHARACTERS, ONE, t) for t in texts]


def test_lower_case_is_of_the_head_alone():
    low = dataclasses.replace(ONE, lowercase=True)
    assert head_ids(CHARACTERS, low, "GOOD Ä") == head_ids(CHARACTERS, ONE, "good ä")
    assert head_ids(CHARACTERS, ONE, "GOOD Ä") != head_ids(CHARACTERS, ONE, "good ä")


@pytest.mark.parametrize(
    ("a", "b", "kept_a", "kept_b"),
    [("abcdefgh", "ij", 5, 2), ("ab", "cdefghij", 2, 5), ("abcdefgh", "ijklmnop", 4, 3), ("abc", "def", 3, 3)],
)
def test_of_two_the_longer_is_cut_first(a, b, kept_a, kept_b):
    """Ten tokens are BOS, two EOS and seven of the texts."""
    found = head_inputs(CHARACTERS, dataclasses.replace(TWO, length=10), [(a, b)])[0]
    assert found.ids == [BOS, *ids(a[:kept_a]), EOS, *ids(b[:kept_b]), EOS]
    assert found.cut == (len(a) + len(b) > 7)


def test_a_text_too_long_keeps_its_beginning_and_the_eos():
    short = dataclasses.replace(ONE, length=5)
    assert head_inputs(CHARACTERS, short, ["abc", "abcd"]) == [
        ([BOS, *ids("abc"), EOS], False),
        ([BOS, *ids("abc"), EOS], True),
    ]
    assert fitted(short, 4).length == 4
    assert fitted(ONE, 4).length == 4
    assert fitted(short, 40) == short


@pytest.mark.fault(50)
@pytest.mark.parametrize(
    ("head", "given", "said"),
    [
        (ONE, (" \n",), "text: is empty; head 'mood' has nothing to read"),
        (TWO, ("a", ""), "text, second of two: is empty"),
        (TWO, ("", "a"), "text, first of two: is empty"),
        (TWO, ("a",), "head 'same' reads two texts; give both"),
        (ONE, ("a", "b"), "head 'mood' reads one text, found two"),
        (TWO, ("a\ud800", "b"), "character 1 is"),
    ],
)
def test_what_a_head_cannot_read_is_refused(head, given, said):
    with pytest.raises(ValueError, match="text") as error:
        head_inputs(CHARACTERS, head, [given[0] if len(given) == 1 else given])
    assert said in str(error.value)
    with pytest.raises(ValueError, match=r"^text 1"):
        head_inputs(CHARACTERS, head, ["a" if head is ONE else ("a", "b"), given[0] if len(given) == 1 else given])


def test_a_head_is_found_by_its_name_and_the_only_one_without():
    pair = ClassHead(name="continuity", classes=("a", "b"), pair=True)
    token = ClassHead(name="position", classes=("a", "b"), token=True)
    assert head_named([pair, token, ONE], None) == 2
    assert head_named([ONE, TWO], "same") == 1
    for heads, name, said in [
        ([ONE, TWO], "moood", "no such head; did you mean 'mood'"),
        ([ONE, TWO], None, "name one of them: mood, same"),
        ([pair], None, "no head of whole texts"),
        ([pair, ONE], "continuity", "tells something of running text"),
        ([token, ONE], "position", "tells something of running text"),
    ]:
        with pytest.raises(ValueError, match="head") as error:
            head_named(heads, name)
        assert said in str(error.value)
