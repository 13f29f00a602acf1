"""Labelled texts are split by count, in every class alike, and no text is on both sides."""

from collections import Counter

import numpy as np
import pytest

from data.examples.choosing import DUPLICATE, TRAIN, TWIN, VALIDATION
from data.examples.labelled_texts import LabelledText
from data.examples.stratifying import SPARE, known, sides
from data.preparation.holdout import text_hash


def labelled(count, target):
    return [LabelledText(f"text {n}", None, target(n), f"f:{n}", f"text {n}") for n in range(count)]


def split(texts, held_out=200, most=None, held_before=None, source="a", measured=()):
    names = [source] * len(texts) if isinstance(source, str) else source
    return sides(known(names, texts), held_out, most, held_before or {}, measured)


def by_class(texts, side_E, side):
    return Counter(one.target for one, of in zip(texts, side_E, strict=True) if of == side)


def test_each_class_is_held_out_in_proportion_a_fifth_at_most():
    texts = labelled(100, lambda n: "rare" if n % 10 == 0 else "common")
    side_E = split(texts)
    assert by_class(texts, side_E, VALIDATION) == {"rare": 2, "common": 18}
    assert by_class(texts, split(texts, held_out=10), VALIDATION) == {"rare": 1, "common": 9}


def test_the_last_text_of_a_class_trains():
    texts = labelled(30, lambda n: "once" if n == 7 else ("a", "b")[n % 2])
    assert split(texts)[7] == TRAIN


def test_numbers_are_held_out_at_every_level():
    texts = labelled(100, lambda n: float(n))
    held = [one.target for one, side in zip(texts, split(texts), strict=True) if side == VALIDATION]
    assert np.histogram(held, 5, (0, 100))[0].tolist() == [4] * 5


def test_texts_of_one_group_stay_on_one_side_and_twins_are_dropped():
    texts = [LabelledText(f"Q {n // 2}", f"reply {n}", "ab"[n % 2], "", "") for n in range(60)]
    side_E = split([*texts, texts[0]._replace(text="q  0", second="Reply 0")])
    assert side_E[-1] == DUPLICATE
    assert (side_E[:60:2] == side_E[1:60:2]).all()
    assert (side_E == VALIDATION).sum() == 12


def test_pairs_that_their_texts_connect_stay_on_one_side_in_whatever_order_they_come():
    """Mirrored ones and chains: of 30 threes (a, b), (b, a), (c, B), each three is one group; "yes" connects none."""
    texts = [
        LabelledText(f"{first} {n}", f"{second} {n}", "x", "", "")
        for n in range(30)
        for first, second in (("a", "b"), ("b", "a"), ("c", "B"))
    ]
    side_E = split(texts, held_out=9)
    assert (side_E == VALIDATION).sum() == 9
    assert (side_E.reshape(30, 3) == side_E[::3, None]).all()
    np.testing.assert_array_equal(split(texts[::-1], held_out=9), side_E[::-1])
    assert (split([one._replace(second="yes") for one in texts], held_out=9) == VALIDATION).sum() == 9


def test_so_many_train_as_are_asked_for_and_what_is_held_out_stays():
    texts = labelled(200, lambda n: "ab"[n % 4 == 0])
    whole, few = split(texts), split(texts, most=20)
    assert by_class(texts, few, TRAIN) == {"a": 15, "b": 5}
    np.testing.assert_array_equal(whole == VALIDATION, few == VALIDATION)
    assert (few == SPARE).sum() == 140
    assert ((split(texts, most=40) == TRAIN) >= (few == TRAIN)).all()


def test_what_pretraining_held_out_is_held_out_again_and_no_others():
    texts = labelled(50, lambda n: "ab"[n % 2])
    before = frozenset(text_hash(texts[n].document.encode()) for n in (3, 4, 5))
    assert np.flatnonzero(split(texts, held_before={"a": before}) == VALIDATION).tolist() == [3, 4, 5]


def test_a_source_to_measure_by_is_held_out_whole_and_its_twins_do_not_train():
    texts = labelled(20, lambda n: "ab"[n % 2])
    both = [*texts, *texts[:4]]
    side_E = split(both, source=["a"] * 20 + ["b"] * 4, measured=["b"])
    assert side_E.tolist() == [TWIN] * 4 + [TRAIN] * 16 + [VALIDATION] * 4


@pytest.mark.parametrize("count", [5, 9, 10])
def test_of_few_texts_a_fifth_is_held_out(count):
    texts = labelled(count, lambda n: "ab"[n % 2])
    assert (split(texts) == VALIDATION).sum() == count // 5
