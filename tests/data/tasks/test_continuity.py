"""Pairs of blocks: the class says how they lie, and neither one of them nor their lengths tell the class."""

import re
from typing import Any

import numpy as np
import pytest

from data.rows.rowplan import Pieces, SequentialPlan
from data.rows.rows import open_corpus, read_text
from data.tasks.continuity import CLASSES, TOLERANCE, Continuity
from tests.tiny_text import WORDS, write_prepared

T, ROWS = 256, 200
TASK = Continuity(rows=1)


def document(source: str, number: int) -> str:
    """10 to 50 sentences that say which they are."""
    draw = np.random.default_rng(number)
    words = (" ".join(draw.choice(WORDS, draw.integers(1, 7))) for _ in range(10 + 5 * (number % 9)))
    return " ".join(f"{source}{number}x{n} {some}." for n, some in enumerate(words)) + "\n"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    sources = {name: [document(name.upper(), number) for number in range(60)] for name in ("p", "q")}
    return open_corpus(write_prepared(tmp_path_factory.mktemp("continuity"), sources), "train")


def text_of(corpus, row_R=None, seed=0):
    """Rows of both sources, one half after the other."""
    found = []
    for source, store in enumerate(corpus.stores):
        pieces = SequentialPlan(store, T).pieces(np.arange(ROWS // 2))
        found.append((source, pieces._replace(row_P=pieces.row_P + source * ROWS // 2)))
    text = read_text(corpus, found, T, np.zeros(ROWS), seed)
    return text if row_R is None else text.of(row_R)


def read(corpus, batch):
    """(row, A, B, class) of every segment, the blocks as lists of (source, document, sentence) and in tokens."""
    found = []
    for row, column in np.argwhere(batch.label_weight_BQ > 0):
        second = batch.at_BQ[row, column]
        here = np.flatnonzero(batch.segment_BT[row] == batch.segment_BT[row, second])
        tokens = batch.tokens_BT[row, here]
        bos, eos = corpus.tokenizer.bos, corpus.tokenizer.eos
        frame = np.flatnonzero((tokens == bos) | (tokens == eos))
        assert (frame[0], frame[2], tokens[frame].tolist()) == (0, len(tokens) - 1, [bos, eos, eos])
        assert here[frame[1]] == second - 1  # the head compares what is before with what follows
        blocks = tokens[1 : frame[1]], tokens[frame[1] + 1 : -1]
        texts = [corpus.tokenizer.decode(block.tolist()) for block in blocks]
        named = [[(s, int(d), int(n)) for s, d, n in re.findall(r"(\w)(\d+)x(\d+)", text)] for text in texts]
        found.append((row, *zip(named, blocks, strict=True), CLASSES[batch.label_BQ[row, column]]))
    return found


@pytest.fixture(scope="module")
def pairs(corpus):
    return [
        pair
        for seed in range(8)
        for pair in read(corpus, TASK.build(text_of(corpus, seed=seed)))
    ]  # fmt: skip


def test_classes_say_how_the_blocks_lie(pairs):
    """Next: B goes on where A ends. Swapped: A where B ends. Random: B is of another document of the same source."""
    for _, (a, _), (b, _), named in pairs:
        (source_A, document_A, _), (source_B, document_B, _) = a[0], b[0]
        assert source_A == source_B
        assert (document_A == document_B) == (named != "random")
        first, second = (b, a) if named == "swapped" else (a, b)
        if named != "random":
            assert second[0][2] == first[-1][2] + 1


def test_blocks_are_whole_sentences_of_one_document_without_its_opening(pairs, corpus):
    for _, *blocks, _ in pairs:
        for named, tokens in blocks:
            numbers = [number for _, _, number in named]
            assert numbers == [*range(numbers[0], numbers[0] + len(numbers))]
            assert len({document for _, document, _ in named}) == 1
            source, number, first = named[0]
            assert document(source, number).index(f"{source}{number}x{first} ") > TASK.shortest
            assert TASK.shortest <= len(tokens) <= TASK.longest
            assert corpus.tokenizer.decode(tokens[-1:].tolist()) == "."


def test_a_third_of_the_pairs_is_of_each_class(pairs):
    shares = np.array([[named == name for *_, named in pairs] for name in CLASSES]).mean(1)
    assert len(pairs) > 2000
    np.testing.assert_allclose(shares, 1 / 3, atol=0.04)


def test_neither_block_nor_lengths_tell_the_class(pairs):
    """Trap 15: the label leaks through length, source or place. What can be measured leaves a classifier at chance."""
    features = np.array([
        [len(A), len(B), len(A) - len(B), abs(len(A) - len(B)), len(a), len(b), a[0][2], b[0][2], a[0][0] == "P"]
        for _, (a, A), (b, B), _ in pairs
    ])  # fmt: skip
    label = np.array([CLASSES.index(named) for *_, named in pairs])
    place = {"only A": [0, 4, 6, 8], "only B": [1, 5, 7, 8], "lengths and source": [0, 1, 2, 3, 8]}
    for seen in place.values():
        x = features[:, seen] / features[:, seen].std(0)
        fit = np.arange(len(x)) % 2 == 0
        mean = np.array([x[fit & (label == k)].mean(0) for k in range(3)])
        guess = np.abs(x[~fit, None] - mean).sum(2).argmin(1)
        assert (guess == label[~fit]).mean() < 0.40
    both = [0 if b[0][1] != a[0][1] else 1 + (b[0][2] > a[0][2]) for _, (a, _), (b, _), _ in pairs]
    assert [("random", "swapped", "next")[k] for k in both] == [named for *_, named in pairs]  # together they tell


def test_a_foreign_block_is_about_as_long_as_the_one_that_it_replaces(corpus):
    """The other block of the pair is as it was, so lengths of whole segments hardly change."""
    text = text_of(corpus)
    piece_S, least_S, begin_S, middle_S, stop_S = TASK.pairs(text)
    key_S, second_S = np.arange(len(piece_S)).astype(np.uint64), np.arange(len(piece_S)) % 2 > 0
    own_S = np.where(second_S, stop_S - middle_S, middle_S - begin_S)
    _, length_S = TASK.foreign(text, piece_S, least_S, key_S, second_S, own_S)
    found_S = length_S > 0
    assert found_S.mean() > 0.8
    assert (np.abs(length_S - own_S) <= TOLERANCE * own_S)[found_S].all()
    assert (length_S != own_S)[found_S].any()


def test_chance_differs_by_seed_and_by_nothing_else(corpus):
    """Rows built together and one by one are equal; another seed draws other pairs."""
    rows = np.array([3, 40, 41, 120])
    together, apart = TASK.build(text_of(corpus)), TASK.build(text_of(corpus, rows))
    for a, b in zip(together, apart, strict=True):
        np.testing.assert_array_equal(a[rows], b)
    assert not np.array_equal(together.tokens_BT, TASK.build(text_of(corpus, seed=1)).tokens_BT)


def test_the_first_block_is_visible_to_all_the_second_to_its_later_tokens_and_no_token_is_predicted(corpus):
    batch = TASK.build(text_of(corpus))
    for row, column in np.argwhere(batch.label_weight_BQ > 0):
        second = batch.at_BQ[row, column]
        here = np.flatnonzero(batch.segment_BT[row] == batch.segment_BT[row, second])
        np.testing.assert_array_equal(batch.visible_BT[row, here], here < second)
    assert not batch.weights_BT.any()
    assert (batch.segment_BT > 0).sum() > 0.1 * batch.segment_BT.size
    assert batch.label_BQ.shape[1] == TASK.targets_a_row(corpus, T) == 256 // 35


def test_rows_without_pairs_are_padding(corpus):
    """A row that is one sentence, and no rows at all."""
    alone = Pieces(*np.array([[0], [0], [0], [20], [corpus.stores[0].offset_D[1]], [0], [0]]))
    batch = TASK.build(read_text(corpus, [(0, alone)], T, np.zeros(1), 0))
    assert not batch.segment_BT.any()
    assert not batch.label_weight_BQ.any()
    assert TASK.build(text_of(corpus, np.zeros(0, int))).shape == (0, T)


def test_settings_that_cannot_be_are_named(corpus):
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"shortest": 0}, "shortest=0"),
        ({"shortest": 20, "longest": 19}, "longest=19.*shortest=20"),
    )
    for settings, found in cases:
        with pytest.raises(ValueError, match=found):
            Continuity(**settings)
    with pytest.raises(ValueError, match=r"shortest=16.*35 tokens.*T=34; use 15"):
        TASK.targets_a_row(corpus, 34)
    assert TASK.targets_a_row(corpus, 35) == 1
