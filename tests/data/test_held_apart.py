"""Held-out text stays out of training text, whatever stands around it and wherever it comes from."""

import pickle
import random

import numpy as np
import pytest
from etils import epath

from data import prepare
from data.preparation import holdout, sources, workitems
from tests.data.test_prepare import assert_same_files, described, rows_of, some_documents, spec_of, stored, write_jsonl


def once_prepared(tmp_path, **settings):
    """A source, a folder prepared from it, and the documents that it holds out."""
    source = f"files:{write_jsonl(tmp_path / 'a.jsonl', some_documents(200))}"
    folder = prepare.prepare(spec_of(tmp_path, source, **settings))
    return source, folder, stored(folder, "validation")


@pytest.mark.parametrize("shard", [sources.SHARD, 20_000])
def test_training_documents_that_hold_a_held_out_one_are_left_out_and_counted(tmp_path, monkeypatch, capsys, shard):
    """In whatever source, around it whatever, with other white space; cut up or whole, the others stay."""
    monkeypatch.setattr(sources, "SHARD", shard)
    a, _, (_, *held) = once_prepared(tmp_path, validation="tail 0.1")
    others = some_documents(200, seed=1)
    around = [f'"{held[0]}" is what they say', "x " + held[1].replace(" ", "\r\n\t"), others[0] + held[2] + others[1]]
    for number in range(2):
        texts = [*around, *others[:100]] if number == 0 else others[100:]
        write_jsonl(tmp_path / f"b{number}.jsonl", random.Random(0).sample(texts, len(texts)))
    folder = prepare.prepare(spec_of(tmp_path, a, f"files:{tmp_path}/b*.jsonl", validation="tail 0.1"))
    assert [described(folder, number)["left_out"]["documents"] for number in (0, 1)] == [0, 3]
    assert described(folder, 1)["left_out"]["bytes"] == sum(len(text.encode()) for text in around)
    kept = "".join(stored(folder, "train", 1) + stored(folder, "validation", 1))
    assert sorted(kept.splitlines()) == sorted(text.rstrip("\n") for text in others)
    assert stored(folder, "validation")[1:] == held
    assert "3 documents of 0.00 MB don't train" in capsys.readouterr().out


def test_a_held_out_end_is_looked_for_too(tmp_path):
    """Of a file whose end is held out, in another file."""
    (tmp_path / "a.txt").write_text("".join(some_documents(30)))
    (end,) = stored(
        prepare.prepare(spec_of(tmp_path, f"files:{tmp_path / 'a.txt'}", validation="tail 0.1")), "validation"
    )
    copies = ["see: " + end, *some_documents(20, seed=2)]
    b = write_jsonl(tmp_path / "b.jsonl", copies)
    folder = prepare.prepare(spec_of(tmp_path, f"files:{tmp_path / 'a.txt'}", f"files:{b}", validation="tail 0.1"))
    assert [described(folder, number)["left_out"]["documents"] for number in (0, 1)] == [0, 1]
    assert stored(folder, "train", 1)[0] == copies[1]


@pytest.mark.parametrize("named", ["validation", "copied"])
def test_text_of_ours_that_holds_held_out_text_is_refused(tmp_path, named):
    """The file of held-out text in a prepared folder, there or copied elsewhere whole; nothing is prepared."""
    a, folder, _ = once_prepared(tmp_path, validation="tail 0.1")
    if named == "copied":
        folder = folder.rename(tmp_path / "elsewhere")
    text = folder / described(folder)["folder"] / "validation" / "text.txt"
    with pytest.raises(
        ValueError, match=r"text\.txt lies in prepared text, which gptjax wrote, and holds documents word"
    ):
        prepare.prepare(spec_of(tmp_path, a, f"files:{text}", validation="tail 0.1"))


def test_a_source_of_which_nothing_is_left_is_refused(tmp_path):
    a, _, held = once_prepared(tmp_path)
    b = write_jsonl(tmp_path / "b.jsonl", [f"{number} {held[0]} {text}" for number, text in enumerate(held * 8)])
    with pytest.raises(ValueError, match=r"each of its [\d,]+ training documents holds a held-out document"):
        prepare.prepare(spec_of(tmp_path, a, f"files:{b}"))


def test_a_preparation_stopped_after_the_comparison_goes_on(tmp_path, monkeypatch):
    """What was compared is not compared again, and the files are those of an undisturbed preparation."""
    a, _, held = once_prepared(tmp_path)
    b = f"files:{write_jsonl(tmp_path / 'b.jsonl', [*some_documents(200, seed=1), 'x' + held[0]])}"
    spec = spec_of(tmp_path, a, b, prepared=tmp_path / "stopped")
    with monkeypatch.context() as patched:
        patched.setattr(prepare, "write_tokenizer", lambda *_: {}[0])
        with pytest.raises(KeyError):
            prepare.prepare(spec)
    with monkeypatch.context() as patched:
        patched.setattr(workitems.overlap, "Sought", None)
        folder = prepare.prepare(spec)
    assert_same_files(folder, prepare.prepare(spec_of(tmp_path, a, b, prepared=tmp_path / "undisturbed")))
    assert described(folder, 1)["left_out"]["documents"] == 1


def test_a_part_left_out_keeps_its_validation_end():
    """The beginning of a cut document goes, its end stays; counted once."""
    rows = holdout.plans(["it"], [rows_of([text := "".join(some_documents(10))])], "tail", 0.1)["it"]
    before, after = list(rows.pieces(0, text)), list(rows.without(np.array([0])).pieces(0, text))
    assert [split for split, *_ in before] == [holdout.TRAIN, holdout.VALIDATION]
    assert after == before[1:]


def test_any_number_of_machines_make_the_same_folder(tmp_path, monkeypatch):
    """Pieces dealt out in another order, each to a process that knows only the item, give the bytes of one process."""
    monkeypatch.setattr(sources, "SHARD", 20_000)
    a, _, (_, *held) = once_prepared(tmp_path, validation="tail 0.1")
    write_jsonl(tmp_path / "b0.jsonl", ["see " + text for text in held[:5]])
    write_jsonl(tmp_path / "b1.jsonl", some_documents(200, seed=1))

    def elsewhere(title, function, items, total):
        for item in pickle.loads(pickle.dumps(list(reversed(items)))):
            pickle.loads(pickle.dumps(function))(item)

    names = (a, f"files:{tmp_path}/b*.jsonl")
    here = prepare.prepare(spec_of(tmp_path, *names, validation="tail 0.1", prepared=tmp_path / "here"))
    spec = spec_of(tmp_path, *names, validation="tail 0.1", prepared=tmp_path / "there")
    there = prepare.prepare(spec, shared=epath.Path(tmp_path / "shared"), run_all=elsewhere)
    assert_same_files(here, there)
    assert described(there, 1)["left_out"]["documents"] == 5


def test_a_corpus_of_ours_that_quotes_a_held_out_document_is_text_like_any_other(tmp_path):
    """Its records lie in the folder of prepared text, which makes it no output of ours."""
    settings = {"tokenizer": "bytes", "validation": "tail 0.1"}
    alone = prepare.prepare(spec_of(tmp_path, "chatterbot/english", **settings))
    quoted = max(stored(alone, "train"), key=len)
    file = write_jsonl(tmp_path / "a.jsonl", [*some_documents(9, words=len(quoted) // 5), quoted[3:-3]])
    folder = prepare.prepare(spec_of(tmp_path, f"files:{file}", "chatterbot/english", **settings))
    assert stored(folder, "validation") == [quoted[3:-3]]
    assert described(folder, 1)["left_out"]["documents"] == 1
    assert quoted not in stored(folder, "train", 1)
