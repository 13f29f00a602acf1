"""Marks: where words start and sentences end, and in which tokens that is."""

import numpy as np
import pytest

from data.preparation.token_flags import SENTENCE_END, WORD_START, marks, sentence_ends, word_marks, word_starts
from gptjax.text.tokenizer import Tokenizer, byte_tokenizer, train_bpe, train_characters


def words(*texts):
    """The texts cut before every word."""
    joined = "".join(texts)
    starts = word_starts(texts).tolist()
    return [joined[start:stop].strip() for start, stop in zip(starts, [*starts[1:], None], strict=False)]


def sentences(text, language=None):
    """The text cut after every sentence."""
    stops = [end + 1 for end in sentence_ends([text], language).tolist()]
    assert not text[stops[-1] if stops else 0 :].strip()  # nothing is left over
    return [text[start:stop].strip() for start, stop in zip([0, *stops], stops, strict=False)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The dog isn't 3.5 m.", ["The", "dog", "isn't", "3.5", "m."]),
        ("¿Qué pasa? L'été", ["Qué", "pasa?", "L'été"]),
        ("def _name_2(x):", ["def", "_name_2(", "x):"]),
        ("我们去北京大学。", ["我们", "去", "北京大学。"]),
        ("He said 我们去北京大学 twice", ["He", "said", "我们", "去", "北京大学", "twice"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("... !", []),
        ("", []),
    ],
)
def test_words_are_what_a_reader_calls_words(text, expected):
    """Apostrophes and decimal points hold words together; Chinese is cut by its dictionary, whatever is around it."""
    assert words(text) == expected


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "Mr. Smith paid $3.50. Why? See e.g. p. 55!", ["Mr. Smith paid $3.50.", "Why?", "See e.g. p. 55!"]),
        ("en", 'He said "No." Then he left... and came back.', ['He said "No."', "Then he left... and came back."]),
        ("fr", "« Vraiment ? » dit-il. Il rit.", ["« Vraiment ? » dit-il.", "Il rit."]),
        ("es", "El Sr. García llegó. ¿Qué pasa? ¡Nada!", ["El Sr. García llegó.", "¿Qué pasa?", "¡Nada!"]),
        (
            "zh",
            "他说：“你好。”走了。真的吗？！是……我不知道",
            ["他说：“你好。”", "走了。", "真的吗？！", "是……我不知道"],
        ),
        (None, "他说：“你好。”走了。Yes. No", ["他说：“你好。”", "走了。", "Yes.", "No"]),
        (None, "A Title\n\nA: hi\nB: hello\n", ["A Title", "A: hi", "B: hello"]),
        (None, "import os\nx = f(1.5)\n    return x\n", ["import os", "x = f(1.5)", "return x"]),
        (None, "A paragraph that was wrapped at some width\ngoes on here.\n", None),
        (None, " \n\n ", []),
        (None, "", []),
    ],
)
def test_sentences_end_where_a_reader_stops(language, text, expected):
    """Not after abbreviations; after closing quotes; at the end of a line, unless a long one goes on in lower case."""
    assert sentences(text, language) == ([text.strip()] if expected is None else expected)


def test_abbreviations_are_those_of_the_language():
    text = "Vive en EE. UU. desde 1990."
    assert len(sentences(text, "es")) == 1 < len(sentences(text, "en"))


TEXTS = [
    "The dog didn't bark. 我们去北京大学。 Née à Köln!\n",
    "",
    "  ",
    "wrapped at a width that is over forty chars\nok",
    "\U0001f600 ok\u200b",
    "more than forty characters, and not one line end",
    "ok so\nfine",
]


@pytest.fixture(params=["bpe", "characters", "bytes", "sentencepiece"])
def tokenizer(request, tmp_path):
    match request.param:
        case "bpe":
            return train_bpe(TEXTS * 5, 300)
        case "characters":
            return train_characters(TEXTS[:1], 400)
        case "bytes":
            return byte_tokenizer()
    import sentencepiece

    prefix = str(tmp_path / "model")
    settings = {"vocab_size": 400, "hard_vocab_limit": False, "byte_fallback": True, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.Train(sentence_iterator=iter(TEXTS * 20), model_prefix=prefix, **settings)
    return Tokenizer.load(tmp_path / "model.model")


def test_the_token_that_holds_a_character_is_marked(tokenizer):
    """One token or several a character, with or without a normaliser: the first token that reaches it has the mark.

    A zero-width space, which SentencePiece drops, counts to the last token of its text.
    """
    for text in TEXTS:
        ids = tokenizer.encode(text)
        stops = np.array([stop for _, stop in tokenizer.offsets(text)])
        expected = np.zeros(len(ids), np.uint8)
        for characters, bit in ((word_starts([text]), WORD_START), (sentence_ends([text]), SENTENCE_END)):
            for character in characters:
                expected[min((stops <= character).sum(), len(ids) - 1)] |= bit
        assert marks([text], [ids], tokenizer, None).tolist() == expected.tolist()


def test_marks_of_a_text_do_not_depend_on_its_neighbours(tokenizer):
    """Many texts at once have the marks of each alone; another language may move them."""
    encoded = tokenizer.encode_batch(TEXTS)
    alone = [marks([text], [ids], tokenizer, None) for text, ids in zip(TEXTS, encoded, strict=True)]
    assert marks(TEXTS, encoded, tokenizer, None).tolist() == np.concatenate(alone).tolist()
    assert {int(mark) for mark in np.concatenate(alone)} >= {0, WORD_START, SENTENCE_END}
    text = "EE. UU. es"
    of_language = [marks([text], [tokenizer.encode(text)], tokenizer, language).tolist() for language in ("en", "es")]
    assert of_language[0] != of_language[1]


def test_words_of_ids_are_those_of_their_text_and_special_tokens_part_them():
    """By bytes, learnt tokens and characters; of ids that end within a character there are none."""
    texts = ["the quick fox, 我们今天去北京大学。", "don't stop\nnow", ""]
    for tokenizer in (byte_tokenizer(), train_bpe(texts * 3, 400), train_characters(texts, 400)):
        encoded = [tokenizer.encode(text) for text in texts]
        wanted = marks(texts, encoded, tokenizer, "en") & WORD_START
        np.testing.assert_array_equal(word_marks(encoded, tokenizer), wanted)
        assert wanted.sum() > 6
        a, b = (tokenizer.encode(word) for word in ("quick", "fox"))
        parted = word_marks([[tokenizer.bos, *a, tokenizer.eos, *b], [*a, *b]], tokenizer)
        starts = np.flatnonzero(parted[: len(a) + len(b) + 2])
        assert starts.tolist() == [1, len(a) + 2]
        assert np.flatnonzero(parted[len(a) + len(b) + 2 :]).tolist() == [0]
    part = byte_tokenizer().encode("a 曹")[:-1]
    assert not word_marks([part], byte_tokenizer()).any()
