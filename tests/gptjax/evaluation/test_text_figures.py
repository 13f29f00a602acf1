"""Figures of written texts: against the packages that define them, and by hand where these have nothing to say."""

import builtins

import numpy as np
import pytest

from gptjax.evaluation.text_figures import TITLES, bleu_tokenizer, figures_of, longest_common, rouge, text_figures

WRITTEN = ["The cat sat on a mat.", "He said: it's 3.5 km, not far-away", "a b c d", "", "one two three one two"]
WANTED = ["The cat is on the mat!", "He said it is 3.5 km; not far away.", "d c b a", "thing", "one one two three two"]
# by rouge-score 0.1.2, RougeScorer(["rouge1", "rouge2", "rougeL"]).score(wanted, written), F of each
BY_ROUGE_SCORE = np.array([
    [0.6666666666666666, 0.20000000000000004, 0.6666666666666666],
    [0.9, 0.7777777777777778, 0.9],
    [1.0, 0.0, 0.25],
    [0.0, 0.0, 0],
    [1.0, 0.5, 0.8000000000000002],
])  # fmt: skip


def test_rouge_is_that_of_rouge_score_on_english():
    """Kept numbers of the package, and the package itself where it is installed."""
    ours = np.array([rouge(one, other) for one, other in zip(WRITTEN, WANTED, strict=True)])
    np.testing.assert_allclose(ours, BY_ROUGE_SCORE, atol=1e-12)
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rouge2", "rougeL"])
    theirs = [
        [score.fmeasure for score in scorer.score(other, one).values()]
        for one, other in zip(WRITTEN, WANTED, strict=True)
    ]
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_the_longest_common_words_are_those_of_the_table():
    """Of 200 random pairs, as the textbook's table has them."""
    draw = np.random.default_rng(0)
    for _ in range(200):
        one, other = (draw.choice([*"abcde"], draw.integers(0, 90)).tolist() for _ in range(2))
        table = np.zeros((len(one) + 1, len(other) + 1), int)
        for i, a in enumerate(one):
            for j, b in enumerate(other):
                table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
        assert longest_common(one, other) == table[-1, -1]


def test_chinese_is_compared_by_characters():
    """Three of four characters, two of three pairs, in order three; no word of a to z is in it."""
    found = rouge("今天天气好。", "今天天气不好")
    np.testing.assert_allclose(found, [10 / 11, 6 / 9, 10 / 11])
    assert text_figures(("exact", "f1"), ["北京"], ["北京。"]) == {"exact": 100.0, "f1": 100.0}
    assert text_figures(("f1",), ["北大"], ["北京"]) == {"f1": 50.0}


def test_bleu_and_chrf_are_sacrebleus_with_the_tokenizer_of_the_language():
    sacrebleu = pytest.importorskip("sacrebleu")
    for written, wanted, name in (
        (WRITTEN, WANTED, "13a"),
        (["今天天气很好我们去公园", "他喜欢看书"], ["今天天气很好我们去学校", "他喜欢读书 OK"], "zh"),
        (["これはペンです"], ["それはペンです"], "char"),
    ):
        assert bleu_tokenizer(wanted) == name
        found = text_figures(("bleu", "chrf"), written, wanted)
        assert found["bleu"] == sacrebleu.corpus_bleu(written, [wanted], tokenize=name).score
        assert found["chrf"] == sacrebleu.corpus_chrf(written, [wanted]).score
    assert text_figures(("bleu",), ["今天天气很好我们去公园"], ["今天天气很好我们去学校"])["bleu"] > 50  # 0 by words


def test_figures_that_cannot_be_are_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="'blue' is unknown; known: bleu, chrf"):
        text_figures(("blue",), ["a"], ["a"])
    with pytest.raises(ValueError, match="no text to measure by; hold some examples out"):
        text_figures(("bleu",), [], [])
    imported = builtins.__import__

    def without(name: str, *rest):
        if name == "sacrebleu":
            raise ModuleNotFoundError(name)
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"sacrebleu, which is not installed: .*extra `figures`"):
        text_figures(("chrf",), ["a"], ["a"])
    assert text_figures(("rougeL",), ["a"], ["a"]) == {"rougeL": 100.0}


def test_figures_follow_the_form():
    assert figures_of("source_target")[:2] == ("bleu", "chrf")
    assert figures_of("question_answer")[:2] == ("exact", "f1")
    assert figures_of("messages") == figures_of(None) == ()
    assert {*figures_of("source_target"), *figures_of("question_answer")} == {*TITLES}
