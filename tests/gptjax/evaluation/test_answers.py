"""Exact match and F1 as SQuAD's script counts them, on characters for Chinese."""

import pytest

from gptjax.evaluation.answers import exact_match, f1, words


@pytest.mark.parametrize(
    ("answer", "wanted", "exact", "overlap"),
    [
        ("The Cat.", ["cat"], 1, 1),  # articles, case and punctuation
        ("an  apple\n", ["Apple!"], 1, 1),
        ("in Paris", ["Paris", "France"], 0, 2 / 3),  # precision 1/2, recall 1
        ("the theatre", ["theatre"], 1, 1),  # only whole words are articles
        ("cat cat", ["cat dog"], 0, 1 / 2),  # a word counts as often as both have it
        ("London", ["Paris", "in London"], 0, 2 / 3),  # the best of those wanted
        ("", ["Paris"], 0, 0),
        ("", ["..."], 1, 1),  # nothing is left of either
        ("", ["A"], 0, 0),  # an article is no article where no other word is
        ("the A.", ["A"], 1, 1),
        ("维生素 A", ["维生素A"], 1, 1),  # nor behind Chinese
        ("vitamin a", ["vitamin"], 1, 1),  # as SQuAD's script has it
        ("曹操", ["曹操。"], 1, 1),
        ("曹孟德", ["曹操"], 0, 2 / 5),  # one character of three and of two
        ("在1998年", ["1998年"], 0, 4 / 5),  # a number stays whole
        ("Ｐａｒｉｓ，法国", ["paris 法国"], 1, 1),  # wide letters and punctuation
    ],
)
def test_answers_are_compared_as_their_words(answer, wanted, exact, overlap):
    assert exact_match(answer, wanted) == exact
    assert f1(answer, wanted) == pytest.approx(overlap)


def test_words_are_characters_where_a_script_has_no_spaces():
    assert words("The 3 kingdoms: 三国 ひらがな 한국 사람") == ["3", "kingdoms", *"三国ひらがな", "한국", "사람"]
