"""Labels of blocks: each from where it should come, none where the text has none, and no cue left in the input."""

import json
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from data.rows.rowplan import SequentialPlan
from data.rows.rows import open_corpus, read_text
from data.tasks.classify import TYPES, Classify, types
from data.tasks.task import Corpus
from gptjax.text.tokenizer import byte_tokenizer, train_characters
from tests.tiny_text import LETTERS, WORDS, write_prepared

T, ROWS = 64, 40
ENDS = {".": "statement", "?": "question", "!": "exclamation", "?”": "question", "…": "statement", ',"': None}
CUE = re.compile("[?!¿¡？！.。…]")
FIELDS = {"p": {"mood": ["sad", "merry"], "age": ["new", "old"]}, "q": {"mood": ["calm", "merry"]}, "r": {}}


def document(number: int) -> str:
    draw = np.random.default_rng(number)
    return " ".join(
        " ".join([word.capitalize(), *draw.choice(WORDS, draw.integers(1, 5))]) + draw.choice([*ENDS])
        for word in draw.choice(WORDS, draw.integers(1, 9))
    ) + "\n"  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Three sources; one with two label fields, one with one of them and other classes, one with none."""
    folder = tmp_path_factory.mktemp("classify")
    sources = {name: [document(60 * k + n) for n in range(60)] for k, name in enumerate(FIELDS)}
    write_prepared(folder, sources)
    described = json.loads((folder / "prepared.json").read_text())
    for name, fields in FIELDS.items():
        described["sources"][name]["labels"] = fields
        labels_DF = np.random.default_rng(0).integers(-1, 2, (54, len(fields))).astype(np.int32)
        np.save(folder / name / "train" / "labels.npy", labels_DF)
    (folder / "prepared.json").write_text(json.dumps(described))
    return open_corpus(folder, "train")


def text_of(corpus, seed=0):
    found = []
    for source, store in enumerate(corpus.stores):
        pieces = SequentialPlan(store, T).pieces(np.arange(ROWS))
        found.append((source, pieces._replace(row_P=pieces.row_P + source * ROWS)))
    return read_text(corpus, found, T, np.zeros(ROWS * len(found)), seed)


def read(corpus, task, batch):
    """(row, text of the segment, {head: class}) of every segment with a target; by the name of its source."""
    classes = task.heads(corpus)
    found: dict[tuple[int, int], dict[str, str]] = {}
    for row, column in np.argwhere(batch.label_weight_BQ > 0):
        name = list(classes)[batch.head_BQ[row, column]]
        labels = found.setdefault((row, batch.at_BQ[row, column]), {})
        assert name not in labels
        labels[name] = classes[name][batch.label_BQ[row, column]]
    told = []
    for (row, end), labels in found.items():
        tokens = batch.tokens_BT[row, batch.segment_BT[row] == batch.segment_BT[row, end]]
        assert (tokens[0], tokens[-1]) == (corpus.tokenizer.bos, corpus.tokenizer.eos)
        assert batch.tokens_BT[row, end] == corpus.tokenizer.eos
        told.append((row, corpus.tokenizer.decode(tokens.tolist()), labels))
    return told


def test_the_source_is_that_of_the_row(corpus):
    task = Classify(labels=("source",))
    told = read(corpus, task, task.build(text_of(corpus)))
    assert len(told) > 100
    assert {(row // ROWS, labels["source"]) for row, _, labels in told} == {(0, "p"), (1, "q"), (2, "r")}
    of_two, rows = Classify(labels=("source",), sources=("r", "p")), np.array([1, 2 * ROWS + 1])
    assert of_two.heads(corpus) == {"source": ("r", "p")}
    told = read(corpus, of_two, of_two.build(text_of(corpus).of(rows)))
    assert {(row, labels["source"]) for row, _, labels in told} == {(0, "p"), (1, "r")}


def test_the_type_is_told_by_the_end_of_the_last_sentence(corpus):
    """The blocks of a task without `type` are the same, and end with their cue; where there is none, no target."""
    text = text_of(corpus)
    with_cues = read(corpus, Classify(labels=("source",)), Classify(labels=("source",)).build(text))
    task = Classify(labels=("source", "type"))
    without = read(corpus, task, task.build(text))
    seen = set()
    for (row, block, _), (same_row, bare, labels) in zip(with_cues, without, strict=True):
        assert (row, bare) == (same_row, CUE.sub("", block))
        ends = max((end for end in ENDS if block.strip().endswith(end)), key=len, default=None)
        if ends is not None:  # else the end of a row or document
            assert labels.get("type") == ENDS[ends]
            seen.add(labels.get("type"))
    assert seen == {*TYPES, None}


def test_no_cue_of_the_type_is_left(corpus):
    """Trap 16: a regular expression on the decoded inputs finds no cue, unless no type is asked for."""
    for longest in (40, T):
        left = [
            sum(
                len(CUE.findall(corpus.tokenizer.decode(row.tolist()))) for row in task.build(text_of(corpus)).tokens_BT
            )
            for task in (Classify(labels=("type",), longest=longest), Classify(labels=("source",), longest=longest))
        ]
        assert left[0] == 0
        assert left[1] > 50


@pytest.mark.parametrize(
    "tokenizer", [byte_tokenizer(), train_characters(["abc .?!"], 400)], ids=["bytes", "characters"]
)
def test_cues_spelt_in_several_tokens_are_found_too(tokenizer):
    """Each is removed whole, and only it: the rest of the text stays as it was."""
    blocks = ["¿a？”", "）", "（b…）", "c。」 ", "d", "？e", "f！\n"]
    encoded = [tokenizer.encode(block) for block in blocks]
    stop_S = np.cumsum([*map(len, encoded)])
    token_I = np.concatenate(encoded)
    type_S, is_cue_I = types(tokenizer, token_I, stop_S - [*map(len, encoded)], stop_S)
    assert type_S.tolist() == [1, -1, 0, 0, -1, -1, 2]
    assert tokenizer.decode(token_I[~is_cue_I].tolist()) == "a”）（b）c」 def\n"


def test_labels_of_sources_are_numbered_in_one_list(corpus):
    """Classes of all sources, sorted; a label that a document or a source lacks is no target."""
    task = Classify(labels=("mood", "age", "source"))
    assert task.heads(corpus) == {"mood": ("calm", "merry", "sad"), "age": ("new", "old"), "source": ("p", "q", "r")}
    text = text_of(corpus)
    told = read(corpus, task, task.build(text))
    seen = set()
    for row, block, labels in told:
        name = labels.pop("source")
        store = corpus.stores[corpus.sources.index(name)]
        possible = []
        for document in np.unique(text.document_P[text.row_P == row]):
            tokens = store.tokens[store.offset_D[document] : store.offset_D[document + 1]]
            if block in corpus.tokenizer.decode(tokens.tolist()):
                stored = zip(FIELDS[name].items(), store.label_DF[document], strict=True)
                possible.append({field: names[label] for (field, names), label in stored if label >= 0})
        assert labels in possible
        seen |= {(name, *labels.items())}
    assert seen >= {("r",), ("p",), ("q", ("mood", "merry")), ("p", ("mood", "sad"))}


def test_blocks_may_be_whole_documents(corpus):
    """With `longest` from T on: all text is read but what a row has no room for, two tokens at each cut."""
    text = text_of(corpus)
    task = Classify(labels=("source",), shortest=1, longest=T)
    batch = task.build(text)
    ends = batch.label_weight_BQ.sum()
    assert ends >= len(text.length_P) - (text.length_P <= 3).sum()
    assert (batch.segment_BT > 0).mean() > 0.95 * len(text.token_I) / batch.segment_BT.size


def test_chance_differs_by_seed_and_by_nothing_else(corpus):
    """Rows built together and one by one are equal; another seed cuts other blocks."""
    task, rows = Classify(labels=("source", "type", "mood"), longest=40), np.array([3, 30, 41, 90])
    together, apart = task.build(text_of(corpus)), task.build(text_of(corpus).of(rows))
    for a, b in zip(together, apart, strict=True):
        np.testing.assert_array_equal(a[rows], b)
    assert not np.array_equal(together.tokens_BT, task.build(text_of(corpus, seed=1)).tokens_BT)
    np.testing.assert_array_equal(together.visible_BT, together.segment_BT > 0)
    assert not together.weights_BT.any()


def test_left_out_all_kinds_of_labels_that_the_text_has_are_learnt(corpus):
    """Source, type, and every field with two classes; of one source, not the source."""
    assert Classify().kinds(corpus) == ("source", "type", "age", "mood")
    assert Classify(sources=("q",)).kinds(corpus) == ("type", "mood")
    assert Classify(labels=("-type",)).kinds(corpus) == ("source", "age", "mood")
    nothing_else = Classify(sources=("q",), labels=("-type", "-mood"))
    assert nothing_else.kinds(corpus) == ("type", "mood")


def test_settings_that_cannot_be_are_named(corpus):
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"shortest": 0}, "shortest=0"),
        ({"longest": 7}, "longest=7.*shortest=8"),
        ({"labels": ("type", "type")}, "none twice"),
        ({"labels": ("type", "-source")}, "not both"),
    )
    for settings, found in cases:
        with pytest.raises(ValueError, match=found):
            Classify(**settings)
    with pytest.raises(ValueError, match=r"'moood'.*did you mean.*mood"):
        Classify(labels=("moood",)).heads(corpus)
    with pytest.raises(ValueError, match=r"'-moood'.*did you mean.*mood"):
        Classify(labels=("-moood",)).heads(corpus)
    with pytest.raises(ValueError, match="'source' has fewer than two classes"):
        Classify(labels=("source",), sources=("q",)).heads(corpus)
    with pytest.raises(ValueError, match=r"shortest=8.*10 tokens.*T=9; use 7"):
        Classify(labels=("type",)).targets_a_row(corpus, 9)
    assert Classify(labels=("source", "type")).targets_a_row(corpus, 20) == 4


def test_a_class_that_training_never_shows_is_told_of(tmp_path):
    """A label that only held-out documents have; none is told of where training has them all."""
    store = SimpleNamespace(label_DF=np.array([[0], [2], [-1]]))
    classes = {"one": {"topic": ("art", "law", "war")}}
    corpus = Corpus(("one",), (store,), classes, LETTERS)  # pyright: ignore[reportArgumentType]
    assert Classify(labels=("topic",)).remarks(corpus) == ["labels: no training document has topic 'law'"]
    store.label_DF = np.array([[0], [1], [2]])
    assert Classify(labels=("topic",)).remarks(corpus) == []
