"""Stop words leave a text, and what stays can be read."""

import builtins
import importlib.util

import pytest

from gptjax.text import stop_words
from gptjax.text.stop_words import check_stop_words, without_stop_words

pytest.importorskip("stopwordsiso")


@pytest.mark.parametrize(
    ("language", "text", "left"),
    [
        ("en", "The cat, and the dog, sat on the mat.", "cat, dog, sat mat."),
        ("en", 'However, it is (of course) a "very" bad film! I don\'t like it.', "bad film!"),
        ("en", "Look: i.e. the moon; it shines.\n\nThe sun too", "moon; shines.\n\nsun"),
        ("en", 'Cats… and dogs?! "The" ships (of the sea), (and) trees', "Cats… dogs?! ships (sea), trees"),
        ("fr", "L'homme n'a pas d’argent, mais il est heureux.", "homme argent, heureux."),
        ("de", "Der Film ist nicht gut (und auch zu lang).", "Film."),
        ("hi", "यह फिल्म के बारे में अच्छी है।", "फिल्म बारे अच्छी।"),  # its vowel signs are no letters to Python's \w
        ("vi", "Tôi hoàn toàn ăn cơm", "ăn cơm"),  # a phrase of two words
        ("zh", "我的电影非常好看，但是演员不好。", "电影非常好看，演员不好。"),  # 不好 is a word
    ],
)
def test_stop_words_leave_and_what_stays_can_be_read(language: str, text: str, left: str):
    """Whole words go, whatever their capitals, with the space and the punctuation that only they needed."""
    assert without_stop_words(text, language) == left
    assert without_stop_words(left, language) == left


@pytest.mark.parametrize("text", ["The and of", "I do. And you?", "", "!!", "Theatre", "cat  , dog"])
def test_a_text_of_nothing_else_or_without_any_stays_as_it_is(text: str):
    """So no text becomes empty, and nothing is tidied where nothing was taken."""
    assert without_stop_words(text, "en") == text


@pytest.mark.parametrize(
    ("language", "said"), [("eng", "did you mean 'en'"), ("xx", "known: af, ar"), ("ja", "without spaces")]
)
def test_a_language_without_a_list_is_refused_with_those_that_have_one(language: str, said: str):
    with pytest.raises(ValueError, match="stop_words=") as error:
        without_stop_words("a text", language)
    assert said in str(error.value)
    assert " sv, sw, tl," in str(error.value)


def test_what_is_not_installed_is_named_with_the_fix(monkeypatch: pytest.MonkeyPatch):
    """Chinese without rjieba, any language without the lists."""
    found, imported = importlib.util.find_spec, builtins.__import__
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rjieba" else found(name))
    check_stop_words("en")
    with pytest.raises(ValueError, match=r"rjieba.*extra `words`"):
        check_stop_words("zh")

    def without(name: str, *rest):
        if name == "stopwordsiso":
            raise ModuleNotFoundError(name)
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    stop_words.listed.cache_clear()
    with pytest.raises(ValueError, match=r"not installed.*extra `words`"):
        check_stop_words("en")
