"""Examples as they are stored: what is learnt is what an assistant said, and every conversation is accounted for."""

import json

import numpy as np
import pytest

from data.description import read_prepared
from data.examples.example_spec import ExamplesSpec
from data.examples.preparing import Talks, prepare_examples, tallies_of
from data.preparation.prepared_folder import content, content_hash
from data.preparation.token_flags import LEARNED
from data.token_store import TokenStore
from gptjax.inference.generation_config import GenerationConfig
from gptjax.text.tokenizer import train_characters
from tests.tiny_text import write_prepared

TOKENIZER = train_characters(["abcdefghijklmnopqrstuvwxyz 0123456789ABS:?\n"], 400)
TALKS = Talks(TOKENIZER, GenerationConfig.of_turns(TOKENIZER))
T = 64


def turns(*said):
    return {"messages": [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]}


def prepared(folder, records, running=None, replay=0.0, **settings):
    (folder / "talks.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    spec = ExamplesSpec(sources=(str(folder / "talks.jsonl"),), **{"held_out": 3, **settings})
    return prepare_examples(spec, TALKS, T, folder / "prepared", running=running, replay=replay)


def tally(folder):
    [found] = tallies_of(folder).values()
    return found


def stored(folder, split="train"):
    """(text of each example, what is learnt of it)."""
    store = TokenStore(folder / "00-examples" / split)
    found = []
    for begin, end in zip(store.offset_D[:-1], store.offset_D[1:], strict=True):
        ids, learned = store.tokens[begin:end], (store.marks[begin:end] & LEARNED) > 0
        found.append(tuple("".join(map(TOKENIZER.token, part.tolist())) for part in (ids, ids[learned])))
    return found


def plenty(count=30):
    return [turns(f"who is {n}?", f"it is {n}") for n in range(count)]


def test_what_is_learnt_is_what_the_assistant_said_and_its_end(tmp_path):
    for text, learnt in stored(prepared(tmp_path, plenty())):
        number = text.split("who is ")[1].split("?")[0]
        assert text == f"<|bos|>A: who is {number}?\nB: it is {number}<|eos|>\n"
        assert learnt == f" it is {number}<|eos|>"


def test_no_conversation_is_on_both_sides_and_all_are_accounted_for(tmp_path):
    folder = prepared(tmp_path, [*plenty(), *plenty(2)])
    train, held = stored(folder), stored(folder, "validation")
    assert len(held) == 3
    assert not {text for text, _ in train} & {text for text, _ in held}
    found = tally(folder)
    twice = found.get("duplicates", 0) + found.get("twins of held-out ones", 0)
    assert (found["read"], found["kept"], twice) == (32, 30, 2)
    assert len(train) + len(held) == 30


def test_a_long_conversation_is_cut_between_exchanges_and_each_part_has_the_system_message(tmp_path):
    said = [f"{word} me {n}" for n in range(6) for word in ("ask", "tell")]
    long = {"messages": [{"role": "system", "content": "be brief"}, *turns(*said)["messages"]]}
    folder = prepared(tmp_path, [long, *plenty()])
    parts = [text for text, _ in [*stored(folder), *stored(folder, "validation")] if "be brief" in text]
    assert len(parts) > 1
    assert all(part.startswith("<|bos|>S: be brief\nA: ask me") and part.endswith("<|eos|>\n") for part in parts)
    assert [n for part in parts for n in range(6) if f"tell me {n}<" in part] == list(range(6))
    assert tally(folder)["cut between exchanges"] == 1
    dropped = prepared(tmp_path, [long, *plenty()], too_long="drop")
    assert tally(dropped)[f"dropped: longer than a row of {T} tokens"] == 1
    assert not any("be brief" in text for text, _ in stored(dropped))


def test_an_answer_longer_than_a_row_is_dropped_and_counted(tmp_path):
    folder = prepared(tmp_path, [turns("why?", "because " * 20), *plenty()])
    assert tally(folder)[f"dropped: an exchange longer than a row of {T} tokens"] == 1
    assert not any("because" in text for text, _ in stored(folder))


def test_only_the_last_answer_is_learnt_where_that_is_asked_for(tmp_path):
    records = [turns("a", f"b{n}", "c", f"d{n}") for n in range(12)]
    assert all(learnt.startswith(" d") for _, learnt in stored(prepared(tmp_path, records, learn="last")))
    assert all(" b" in learnt and " d" in learnt for _, learnt in stored(prepared(tmp_path, records)))


def test_where_nothing_is_left_the_reasons_are_told(tmp_path):
    with pytest.raises(ValueError, match=r"nothing is left to learn .*3 dropped: an exchange longer than a row of 64"):
        prepared(tmp_path, [turns(f"why {n}?", "because " * 20) for n in range(3)])


def test_replayed_text_has_its_share_of_the_rows_and_none_without_replay(tmp_path):
    running = write_prepared(tmp_path / "prepared" / "running", {"one": ["abc abc.\n"] * 40}, tokenizer=TOKENIZER)
    folder = prepared(tmp_path, plenty(), running, 0.25)
    shares = {name: source["share"] for name, source in read_prepared(folder)["sources"].items()}
    assert shares["one"] == 0.25
    assert np.isclose(sum(shares.values()), 1)
    assert len(TokenStore(folder / read_prepared(folder)["sources"]["one"]["folder"] / "train").tokens) > 0
    assert "one" not in read_prepared(prepared(tmp_path, plenty(), running, 0.0))["sources"]


def test_the_same_settings_find_the_folder_again_and_others_make_another(tmp_path):
    first = prepared(tmp_path, plenty())
    times = [path.stat().st_mtime_ns for path in first.rglob("*")]
    spec = ExamplesSpec(sources=(str(tmp_path / "talks.jsonl"),), held_out=3)
    again = prepare_examples(spec, TALKS, T, tmp_path / "prepared", running=None, replay=0.0)
    assert again == first
    assert times == [path.stat().st_mtime_ns for path in first.rglob("*")]
    assert prepare_examples(spec, TALKS, 2 * T, tmp_path / "prepared", running=None, replay=0.0) != first


def test_examples_that_an_older_gptjax_marked_are_the_same_ones_unless_other_tokens_are_learnt(tmp_path):
    """It marked what is learnt alone."""
    folder = prepared(tmp_path, [turns(f"question {n}", f"answer {n}") for n in range(40)])
    described, marks = read_prepared(folder), folder / "00-examples" / "train" / "marks.bin"
    new = np.fromfile(marks, np.uint8)
    old = new & LEARNED
    assert (old != new).any()
    old.tofile(marks)
    was = described.copy()
    was["content"] = content_hash(folder, described["sources"], described["format"])
    new.tofile(marks)
    assert content(folder, was) == was["content"] != described["content"]
    (new ^ LEARNED).tofile(marks)
    assert content(folder, was) != was["content"]
