"""What augmentation changes of a text, how much of it, and what it leaves alone."""

import re
from collections import Counter

import numpy as np
import pytest

from data.examples.example_spec import ExamplesSpec
from data.examples.preparing import Talks, prepare_examples
from data.preparation.token_flags import ASKED, LEARNED, word_marks
from data.rows.rows import Builder, HeldOutRows, Rows, open_corpus
from data.tasks.augment import CHANGES, Augment, augmented, changed
from data.tasks.misspelling import alphabets_of, misspellings, misspelt
from data.tasks.reply import Reply
from data.tasks.task import Corpus, Text
from data.token_store import scramble
from gptjax.files.plain_json import dumps
from gptjax.inference.generation_config import GenerationConfig
from gptjax.text.tokenizer import Tokenizer, byte_tokenizer, train_bpe, train_characters
from tests.tiny_text import sentences

ENGLISH = [f"say {text.strip()}" for text in sentences(400)]
CHINESE = ["我们今天去北京大学看电影，天气非常好。", "他喜欢研究中国历史和音乐。"] * 100
WORDS = train_bpe([*ENGLISH, *CHINESE], 900).with_mask()
LETTERS = train_characters([*ENGLISH, *CHINESE], 400)
TOKENIZERS = {"words": WORDS, "letters": LETTERS, "bytes": byte_tokenizer()}
ALL = Augment(swap=0.3, insert=0.3, delete=0.3, characters=0.1, token_dropout=0.2)


def text_of(texts: list[str], tokenizer: Tokenizer, T: int = 512, per_row: int = 1, seed: int = 0) -> Text:
    """Each text between BOS and EOS, so many to a row."""
    ids = [[tokenizer.bos, *tokenizer.encode(text), tokenizer.eos] for text in texts]
    number_P, length_P = np.arange(len(ids)), np.array([*map(len, ids)])
    row_P = number_P // per_row
    return Text(
        Corpus(("one",), (), {"one": {}}, tokenizer), T, np.zeros(row_P[-1] + 1), row_P, 0 * number_P, number_P,
        np.cumsum(length_P) - length_P, np.full(len(ids), -1), scramble(number_P, seed), length_P,
        np.concatenate(ids).astype(np.int32), word_marks(ids, tokenizer),
    )  # fmt: skip


def everywhere(text: Text) -> np.ndarray:
    return np.ones(len(text.token_I), bool)


def read(text: Text) -> list[str]:
    return [text.corpus.tokenizer.decode(ids.tolist()) for ids in np.split(text.token_I, np.cumsum(text.length_P)[:-1])]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_words_change_as_words_and_a_text_stays_one_that_can_be_read(name: str):
    """Swapped, it has the same words; deleted, some of them in order; inserted, all of them in order and no others."""
    text = text_of(ENGLISH, TOKENIZERS[name])
    for change in ("swap", "delete", "insert"):
        after = changed(text, everywhere(text), Augment(**{change: 0.3}))
        moved = 0
        for old, new in zip(ENGLISH, read(after.text), strict=True):
            assert "  " not in new
            assert {*words(new)} <= {*words(old)}, (old, new)
            assert new[-1:] == "."
            counted = [Counter(words(one)) for one in (old, new)]
            assert change != "swap" or counted[0] == counted[1]
            fewer, more = sorted((old, new), key=len)
            at = iter(words(more))
            assert change == "swap" or all(word in at for word in words(fewer))
            moved += old != new
        assert moved > 250
        np.testing.assert_array_equal(after.text.token_I[after.text.first_P], TOKENIZERS[name].bos)


def test_chinese_words_move_whole():
    """As jieba cuts them; and a mistyped character of theirs is another Chinese one, or two are swapped."""
    text = text_of(CHINESE, LETTERS)
    whole = {"我们", "北京大学", "电影", "非常", "喜欢", "研究", "中国", "历史", "音乐"}
    after = [
        new
        for augment in (Augment(swap=0.4), Augment(delete=0.4), Augment(insert=0.4))
        for new in read(changed(text, everywhere(text), augment).text)
    ]
    assert sum(new not in CHINESE for new in after) > 150
    for new in after:
        for word in whole:
            assert new.count(word[0]) == new.count(word), (word, new)
    typed = read(changed(text, everywhere(text), Augment(characters=0.2)).text)
    assert all(re.fullmatch("[\u4e00-\u9fff，。]+", new) for new in typed)
    assert sum(new not in CHINESE for new in typed) > 150


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("change", CHANGES)
def test_what_may_not_change_never_does_and_the_share_is_the_one_asked_for(name: str, change: str):
    """Of 400 texts the first half may, special tokens never."""
    tokenizer = TOKENIZERS[name]
    text = text_of(ENGLISH, tokenizer, T=1024)
    half_I = text.position_I < (text.length_P // 2)[text.piece_I]
    after = changed(text, half_I, Augment(**{change: 0.2}))
    may_I = half_I & (text.position_I > 0)
    if change == "token_mask":
        hidden_I = after.text.token_I == tokenizer.mask
        np.testing.assert_array_equal(after.text.token_I[~hidden_I], text.token_I[~hidden_I])
        assert after.counts[change] == hidden_I.sum() == hidden_I[may_I].sum()
    else:
        np.testing.assert_array_equal(text.token_I[~may_I], after.text.token_I[~after.may_I])
    size = may_I.sum()
    if change == "characters":  # at most one of a token
        size = sum(map(str.isalnum, tokenizer.decode(text.token_I[may_I].tolist())))
    assert 0.1 < after.counts[change] / size < 0.22  # words that are bound to stay, or are alone, make it fewer


@pytest.mark.parametrize("name", ["words", "letters"])
def test_rows_never_become_too_long_and_room_is_used(name: str):
    """Rows without room, with some, and with plenty."""
    text = text_of(ENGLISH, TOKENIZERS[name], per_row=4)
    longest = int(np.bincount(text.row_P, text.length_P).max())
    grown = []
    for T in (longest, longest + 20, longest + 500):
        after = changed(text._replace(T=T), everywhere(text), Augment(insert=0.5, characters=0.2)).text
        assert np.bincount(after.row_P, after.length_P).max() <= T
        grown.append(len(after.token_I) - len(text.token_I))
        assert len(after.token_I) == len(after.mark_I) == after.length_P.sum()
    assert 0 < grown[0] < grown[1] < grown[2]
    full = text._replace(T=int(text.length_P.max()), row_P=np.arange(400), progress_R=np.zeros(400))
    of_longest = full.length_P == full.T
    after = changed(full, everywhere(text), Augment(insert=0.5)).text
    np.testing.assert_array_equal(after.length_P[of_longest], full.T)


def test_a_text_changes_otherwise_in_the_next_epoch_and_alike_whatever_it_is_read_with():
    """The key of a piece decides alone; as in data/tasks/task.py."""
    text = text_of(ENGLISH, WORDS)
    first, other = read(changed(text, everywhere(text), ALL).text), text_of(ENGLISH, WORDS, seed=1)
    assert first == read(changed(text, everywhere(text), ALL).text)
    again = read(changed(other, everywhere(other), ALL).text)
    assert sum(a != b for a, b in zip(first, again, strict=True)) > 350
    some = np.arange(0, 400, 3)
    part = text.of(some)
    assert read(changed(part, everywhere(part), ALL).text) == [first[number] for number in some]


def test_of_each_text_a_word_stays():
    text = text_of(["fox", "a dog", "the quick fox"] * 50, WORDS)
    for change in ("delete", "token_dropout"):
        after = read(changed(text, everywhere(text), Augment(**{change: 0.99})).text)
        assert all(words(new) for new in after)
        assert sum(len(words(new)) == 1 for new in after) > 140


def test_the_two_texts_of_a_pair_keep_their_words_to_themselves():
    """A special token stands between: each side has words of its own, and of each one stays."""
    sides = ("the quick fox jumps over a dog", "seven jolly wizards box five sphinxes")
    ids = [[WORDS.bos, *WORDS.encode(sides[0]), WORDS.eos, *WORDS.encode(sides[1]), WORDS.eos]] * 100
    text = text_of(["x"] * 100, WORDS)._replace(
        length_P=np.array([*map(len, ids)]), token_I=np.concatenate(ids).astype(np.int32), mark_I=word_marks(ids, WORDS)
    )
    for augment in (Augment(swap=0.9), Augment(insert=0.9), Augment(delete=0.95), Augment(token_dropout=0.95)):
        after = changed(text, everywhere(text), augment).text
        for piece in np.split(after.token_I, after.first_P[1:]):
            cut = piece.tolist().index(WORDS.eos)
            for side, part in zip(sides, (piece[:cut], piece[cut:]), strict=True):
                found = words(WORDS.decode(part.tolist()))
                assert found
                assert augment.token_dropout or {*found} <= {*side.split()}
        assert not np.array_equal(after.token_I, text.token_I)


def test_a_misspelling_is_one_edit_away():
    """In letters: as many, one more, or one less; and what was edited is a letter."""
    table = misspellings(WORDS)
    found = 0
    for id in range(WORDS.size):
        for begin, length in zip(table.begin_VK[id], table.length_VK[id], strict=True):
            if length:
                old, new = WORDS.spelling(id).decode(), WORDS.decode(table.tokens[begin : begin + length].tolist())
                new = " " + new.lstrip() if old.startswith(" ") else new
                assert old != new
                assert abs(len(old) - len(new)) <= 1
                least = min(len(old), len(new))
                front = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), least)
                back = next((n for n, (a, b) in enumerate(zip(old[::-1], new[::-1], strict=False)) if a != b), least)
                assert front + back >= max(len(old), len(new)) - 2, (old, new)
                found += 1
    assert found > 1000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Prepared conversations of two exchanges each."""
    tmp_path, tokenizer = tmp_path_factory.mktemp("talks"), WORDS
    lines = [
        {"messages": [{"role": ("user", "assistant")[n % 2], "content": f"{text} {n}"} for n in range(4)]}
        for text in ENGLISH[:24]
    ]
    (tmp_path / "talks.jsonl").write_text("".join(f"{dumps(line)}\n" for line in lines))
    spec = ExamplesSpec(sources=(str(tmp_path / "talks.jsonl"),), held_out=4)
    talks = Talks(tokenizer, GenerationConfig.of_turns(tokenizer))
    return prepare_examples(spec, talks, 256, tmp_path / "prepared", running=None, replay=0.0)


def test_of_conversations_what_users_say_changes_in_training_and_in_nothing_else(folder):
    """Not what is learned nor the template, nor held-out rows; and the run says how much it is."""
    tasks = {"reply": Reply(rows=1.0)}
    plain, noisy = (Rows(folder, 256, 0, None, tasks, augment) for augment in (None, ALL))
    text = noisy.text(np.arange(8))
    after = augmented(text, tasks["reply"], ALL)
    asked = [(one.mark_I & ASKED) > 0 for one in (text, after)]
    np.testing.assert_array_equal(text.token_I[~asked[0]], after.token_I[~asked[1]])
    assert (text.mark_I & LEARNED).sum() == (after.mark_I & LEARNED).sum() > 100
    assert text.token_I[asked[0]].tolist() != after.token_I[asked[1]].tolist()
    batch = noisy.batch(np.arange(8))
    np.testing.assert_array_equal(batch.tokens_BT[batch.segment_BT > 0], after.token_I)
    assert batch.weights_BT.sum() == (text.mark_I & LEARNED > 0).sum()
    (remark,) = noisy.remarks
    assert re.search(r"augment: of the [\d,]+ tokens that reply only reads .* \d+\.\d% are changed \(swap", remark)
    assert not plain.remarks
    corpus = open_corpus(folder, "validation")
    held = [
        HeldOutRows(corpus, 0, Builder(corpus, rows.builder.tasks, 256), "reply", 256, 8) for rows in (plain, noisy)
    ]
    for a, b in zip(*(one.batch(np.arange(2)) for one in held), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_same_rows_come_from_any_start_and_host(folder):
    """Each asked for alone, in another order, and beside others; the next epoch's are others."""
    rows = Rows(folder, 256, 0, None, {"reply": Reply(rows=1.0)}, ALL)
    together = rows.batch(np.arange(12))
    for numbers in (np.array([7]), np.array([3, 9]), np.arange(12)[::-1]):
        for array, whole in zip(rows.batch(numbers), together, strict=True):
            np.testing.assert_array_equal(array, whole[numbers])
    a_row = rows.plans[0].rows_per_epoch
    texts = [rows.text(np.arange(first, first + a_row)) for first in (0, a_row)]
    order = [np.argsort(text.document_P) for text in texts]
    kept = [read(augmented(text, Reply(), ALL)) for text in texts]
    pairs = [(kept[0][a], kept[1][b]) for a, b in zip(*order, strict=True)]
    assert sum(a != b for a, b in pairs) > 0.9 * len(pairs)


@pytest.mark.parametrize("field", ["swap", "token_mask", "embedding_noise"])
def test_settings_that_cannot_be_are_refused(field: str):
    with pytest.raises(ValueError, match=f"augment.{field}=-0.1: must be"):
        Augment(**{field: -0.1})
    if field != "embedding_noise":
        with pytest.raises(ValueError, match=f"augment.{field}=1: must be at least 0 and below 1"):
            Augment(**{field: 1})


def test_a_mask_that_the_tokenizer_lacks_is_refused():
    Augment(token_mask=0.1).check(WORDS)
    assert byte_tokenizer().mask is not None
    rules = WORDS.content.decode().replace("<|mask|>", "<|other|>")
    with pytest.raises(ValueError, match=r"has no mask token; use augment.token_dropout"):
        Augment(token_mask=0.1).check(Tokenizer.parsed(rules.encode(), "rules"))


def test_a_text_is_misspelt_within_its_words_by_so_many_of_its_letters_and_by_chance_of_its_seed():
    text = " ".join(ENGLISH[:100]) + CHINESE[0]
    alphabet = alphabets_of(text)
    assert misspelt(text, 0.0, alphabet, seed=1) == text
    wrong = misspelt(text, 0.1, alphabet, seed=1)
    assert wrong == misspelt(text, 0.1, alphabet, seed=1) != misspelt(text, 0.1, alphabet, seed=2)
    assert [*re.sub(r"\w", "", wrong)] == [*re.sub(r"\w", "", text)]
    changed_words = sum(one != other for one, other in zip(words(text), words(wrong), strict=True))
    expected = sum(1 - 0.9 ** len(word) for word in words(text))
    assert 0.9 * expected < changed_words < 1.1 * expected
