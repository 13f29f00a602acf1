"""Conversations out of files, TensorFlow datasets and corpora of ours."""

import gzip
import itertools
import json

import pytest

from data.corpora import corpus as ours
from data.examples.dialogues import Rejected, dialogue_corpora, examples, form_of, source_of
from data.preparation import sources
from gptjax.text.tokenizer import dialogue_text

HELLO = {"prompt": "Hello", "completion": "Hi"}


def write(path, *rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return f"files:{path}"


def read(source, form=None, columns=None, learn="all", bad="stop"):
    return list(examples(source, form=form, columns=columns or {}, learn=learn, bad=bad))


def first(source, count=300):
    return list(itertools.islice(examples(source, form=None, columns={}, learn="all", bad="stop"), count))


def said(found):
    return [[message.content for message in each.messages] for each in found]


def test_the_form_of_the_first_record_is_that_of_the_source(tmp_path):
    """Of a folder, in the order of its files, packed or not; a record of another form is named."""
    write(tmp_path / "a.jsonl", HELLO, {"prompt": "你好", "completion": "您好"})
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"prompt,completion\nBye,Ciao\n"))
    source = f"files:{tmp_path}"
    assert form_of(source, None, {}) == "prompt_completion"
    found = read(source)
    assert said(found) == [["Hello", "Hi"], ["你好", "您好"], ["Bye", "Ciao"]]
    assert [each.where for each in found] == [
        f"{tmp_path}/{place}" for place in ("a.jsonl:1", "a.jsonl:2", "b.csv.gz:2")
    ]
    write(tmp_path / "c.jsonl", {"question": "a", "answer": "b"})
    with pytest.raises(ValueError, match=r"c\.jsonl:1: no field 'prompt'"):
        read(source)


def test_form_and_columns_may_be_named(tmp_path):
    source = write(tmp_path / "a.jsonl", {"translation": {"en": "rain", "zh": "雨"}})
    columns = {"source": "translation.en", "target": "translation.zh"}
    assert said(read(source, "source_target", columns)) == [["rain", "雨"]]
    assert form_of(source, "source_target", columns) == "source_target"
    with pytest.raises(ValueError, match=r"a\.jsonl:1: the fields translation are of no form that is known"):
        read(source)
    with pytest.raises(ValueError, match="need the form whose parts they name"):
        read(source, columns=columns)
    with pytest.raises(ValueError, match=r"source_target has no 'sources'; did you mean 'source'\?"):
        read(source, "source_target", {"sources": "translation.en"}, bad="skip")


def test_a_bad_record_stops_or_is_counted(tmp_path):
    """Where it stands and why, without the number of the turn; the others come as they are, in their order."""
    bad = {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    source = write(tmp_path / "a.jsonl", good, bad, {"messages": []}, {"message": []}, good)
    with pytest.raises(ValueError, match=r"a\.jsonl:2: turn 2: user after user"):
        read(source)
    begin, *rejected, last = read(source, bad="skip")
    assert said([begin, last]) == [["a", "b"]] * 2
    assert all(isinstance(each, Rejected) for each in rejected)
    assert [each.where for each in rejected] == [f"{tmp_path}/a.jsonl:{line}" for line in (2, 3, 4)]
    for each, begins in zip(
        rejected, ("user after user; ", "has no assistant turn", "no field 'messages'"), strict=True
    ):
        assert each.reason.startswith(begins)


def test_a_file_that_cannot_be_read_stops_always(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(HELLO) + "\n{\n")
    with pytest.raises(ValueError, match=r"a\.jsonl:2: not JSON"):
        read(f"files:{tmp_path}/a.jsonl", bad="skip")


def test_a_source_without_a_record_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="there is no record"):
        read(write(tmp_path / "a.jsonl"))
    with pytest.raises(ValueError, match=r"no file or folder .*b\.jsonl; did you mean 'a\.jsonl'"):
        read(f"files:{tmp_path}/b.jsonl")


def test_a_tensorflow_dataset_is_read_by_name(tmp_path, monkeypatch):
    """Its train split, with nested fields; forms and columns as of files."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    tfds = sources.load_tfds()
    text = tfds.features.Text()
    tfds.dataset_builders.store_as_tfds_dataset(
        name="some_questions",
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {"question": text, "context": text, "answers": tfds.features.Sequence({"text": text})}
        ),
        split_datasets={
            "train": [(0, {"question": "Is it dry?", "context": "It rains.", "answers": [{"text": "No"}]})],
            "test": [(0, {"question": "a", "context": "b", "answers": [{"text": "c"}]})],
        },
        data_dir=tmp_path,
    )
    assert form_of("tfds:some_questions", None, {}) == "question_answer"
    (found,) = read("tfds:some_questions")
    assert said([found]) == [["It rains.\n\nIs it dry?", "No"]]
    assert (found.group, found.where) == ("It rains.", "tfds:some_questions: example 1")
    turned = read("tfds:some_questions", "source_target", {"source": "answers.text.0", "target": "question"})
    assert said(turned) == [["No", "Is it dry?"]]
    with pytest.raises(ValueError, match=r"'tfds:some_question': TFDS has no data set 'some_question'"):
        read("tfds:some_question")


@pytest.mark.parametrize("name", ["chatterbot/chinese", "chatterbot/dutch", "chitchat", "crosswoz"])
def test_a_corpus_gives_its_documents_as_conversations(name):
    """The group is the document to the letter, whose turns are those of user and assistant, which alone is learned."""
    assert form_of(name, None, {}) is None
    found = first(name)
    corpus, config = ours.corpora()[name]
    builder = sources.importlib.import_module(f"data.corpora.{corpus}.{corpus}_dataset_builder").Builder
    texts = [example["text"] for path in ours.corpus(corpus).paths(config) for _, example in builder.examples(path)]
    assert [each.group for each in found] == texts[:300]
    for each in found:
        roles = [message.role for message in each.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert [message.learn for message in each.messages] == [role == "assistant" for role in roles]
        turns = [message.content for message in each.messages]
        unanswered = each.group.removeprefix(dialogue_text(turns))
        assert unanswered.count("\n") == (each.group.count("\n") % 2)
    assert len({each.where for each in found}) == len(found)


def test_some_conversations_of_chitchat_end_with_what_nobody_answers():
    """So that the test above has seen both."""
    assert {each.group.count("\n") % 2 for each in first("chitchat")} == {0, 1}


def test_only_corpora_of_conversations_are_taken():
    assert {"chitchat", "chatterbot/chinese", "crosswoz"} <= set(dialogue_corpora())
    assert "wiki_leads/en" not in dialogue_corpora()
    with pytest.raises(
        ValueError, match="'wiki_leads/en' is no corpus of conversations; those are chatterbot/chinese, "
    ):
        read("wiki_leads/en")
    with pytest.raises(ValueError, match=r"no corpus 'chitchatt'; did you mean 'chitchat'\?"):
        read("chitchatt")
    with pytest.raises(ValueError, match="'chitchat' is a corpus of conversations: leave out the form"):
        read("chitchat", "messages")


def test_a_source_says_its_terms(tmp_path):
    card = source_of("crosswoz")
    assert (card.licence, card.language, card.domain) == ("Apache-2.0", "zh", "dialogue")
    assert "made-up" in card.attribution
    assert source_of(write(tmp_path / "a.jsonl", HELLO)).licence == "yours"
