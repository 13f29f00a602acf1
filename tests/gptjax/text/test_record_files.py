"""One reader of records: the same out of every kind of file, packed or not, and what is said of a bad one."""

import csv
import gzip
import io
import json
import tracemalloc

import pyarrow
import pyarrow.parquet
import pytest

from data.preparation import sources
from gptjax.evaluation.items import read_items
from gptjax.text import record_files, text_files
from gptjax.text.record_files import KINDS, column, kind_of, records

PEOPLE = [{"text": 'one "said"', "n": "1"}, {"text": "曹操, 字\n孟德\t", "n": ""}]


def jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table(rows, delimiter):
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def parquet(rows, **options):
    file = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, **options)
    return file.getvalue().to_pybytes()


def zstandard(content):
    file = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(file, "zstd") as packed:
        packed.write(content)
    return file.getvalue().to_pybytes()


WRITE = {
    ".jsonl": jsonl,
    ".json": lambda rows: json.dumps(rows, indent=1).encode(),
    ".csv": lambda rows: table(rows, ","),
    ".tsv": lambda rows: table(rows, "\t"),
    ".parquet": parquet,
}
PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard, ".ZST": zstandard}


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path):
    return [record for _, record in records(path)]


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("kind", WRITE)
def test_every_kind_gives_the_same_records(tmp_path, kind, packed):
    """Written by others: quotes, line ends, tabs and Chinese in a field; training, evaluation and fine-tuning agree."""
    file = write(tmp_path / f"a{kind}{packed}", PACK[packed](WRITE[kind](PEOPLE)))
    assert kind_of(file) == kind
    assert read(file) == PEOPLE
    assert list(read_items([str(file)])) == PEOPLE
    shard = sources.Shard((str(file),))
    assert [(each.text, each.labels) for each in sources.documents(shard, "text", ("n",))] == [
        (PEOPLE[0]["text"], ("1",)),
        (PEOPLE[1]["text"], ("",)),
    ]


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("name", ["a.txt", "a.md"])
def test_a_text_is_one_record_and_in_training_as_long_as_it_was(tmp_path, monkeypatch, name, packed):
    """Packed, too, a large one is read in pieces, and they are the file."""
    text = "one line\r\n\r\n" * 20
    file = write(tmp_path / f"{name}{packed}", PACK[packed](text.encode()))
    assert read(file) == [{"text": text}]
    monkeypatch.setattr(sources, "WHOLE", 100)
    monkeypatch.setattr(sources, "PIECE", 50)
    pieces = [document.text for document in sources.documents(sources.Shard((str(file),)), "text", ())]
    assert len(pieces) > 2
    assert "".join(pieces) == text


def test_records_say_where_they_stand(tmp_path):
    """By the line where they begin, packed or not, or by their number; empty lines count and are left out."""
    lines = b'{"a": 1}\n\n{"a": 2}\n'
    rows = 'a,b\n\n1,"x\ny"\n2,z\n'
    files = {
        "a.jsonl": (lines, [":1", ":3"]),
        "a.jsonl.gz": (gzip.compress(lines), [":1", ":3"]),
        "a.csv": (rows, [":3", ":5"]),
        "a.json": ('[{"a": 1}, {"a": 2}]', [":record 1", ":record 2"]),
        "a.parquet": (parquet([{"a": 1}, {"a": 2}]), [":record 1", ":record 2"]),
        "a.txt": ("one", [""]),
    }
    for name, (content, places) in files.items():
        file = write(tmp_path / name, content)
        assert [where for where, _ in records(file)] == [f"{file}{place}" for place in places]


def test_the_only_list_of_objects_in_an_object_is_the_records(tmp_path):
    """As data sets with a version are written; several, or none, is an error that says what there is."""
    file = tmp_path / "a.json"
    write(file, '{"version": "1.1", "languages": ["en"], "data": [{"text": "a"}]}')
    assert read(file) == [{"text": "a"}]
    for content, said in {
        '{"a": [{}], "b": [{}]}': "2 of them: a, b",
        '{"version": 1, "name": "x"}': "it has only version, name",
        "[1]": r"a\.json:record 1: a int; a record is an object",
        '{"text": "a"}\n{"text": "b"}\n': "an object a line is a .jsonl file: call it so",
    }.items():
        with pytest.raises(ValueError, match=said):
            read(write(file, content))


def test_nested_fields_of_parquet_are_objects_and_lists(tmp_path):
    rows = [{"messages": [{"role": "user", "content": "a"}], "n": 1}, {"messages": [], "n": None}]
    assert read(write(tmp_path / "a.parquet", parquet(rows))) == rows


@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_large_files_are_read_piece_by_piece(tmp_path, kind, packed):
    """Of 10 MB never more than a few are held, from the first record to the last."""
    rows = [{"text": f"{number:05d}" * 1000} for number in range(2000)]
    content = parquet(rows, row_group_size=100) if kind == ".parquet" else WRITE[kind](rows)
    file = write(tmp_path / f"a{kind}{packed}", PACK[packed](content))
    next(records(file))  # imports
    before = pyarrow.total_allocated_bytes()
    most = 0
    tracemalloc.start()
    for number, (_, record) in enumerate(records(file)):
        assert record == rows[number]
        if number % 100 == 0:
            most = max(most, pyarrow.total_allocated_bytes() - before)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert number == len(rows) - 1
    assert peak + most < 4_000_000


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "a,b\n1,2\n\n3\n", r"a\.csv:4: 1 fields, but the first row names 2"),
        ("a.csv", "a,b\n1,2,3\n", r"a\.csv:2: 3 fields, but the first row names 2; a field that holds ',' stands in"),
        ("a.csv", 'a,b\n1,2\n"x" y,2\n', r"a\.csv:3: not \.csv: ',' expected after '\"'; a field with quotes"),
        ("a.tsv", 'a\tb\n1\t"x\n2\ty\n', r"a\.tsv:2: not \.tsv: unexpected end of data"),
        ("a.csv", "a,b,a\n", r"a\.csv:1: the first row names the fields, and 'a' twice"),
        ("a.csv", b"a\nx\ncaf\xe9\n", r"a\.csv:3: byte 4 of the line \(0xe9\) is not UTF-8"),
        ("a.tsv", "a\n1\n".encode("utf-16"), r"a\.tsv: is UTF-16, or no text"),
        (
            "a.csv.gz",
            gzip.compress(b"a\ncaf\xe9\n", mtime=0),
            r"a\.csv\.gz:2: byte 4 .*unpack it, then `iconv .*a\.csv > ",
        ),
        ("a.json", b'[{"a": "\xe9"}]', r"a\.json:1: byte 9 of the line"),
        ("a.json", '[{"a": NaN}]', r"a\.json: .*NaN is no number of JSON; write null"),
        ("a.parquet", b"PAR1 and no more", r"a\.parquet: is damaged, or no \.parquet file"),
        ("a.jsonl.gz", b'{"a": 1}\n', r"a\.jsonl\.gz: is damaged, cut short, or no \.gz file"),
        ("a.jsonl.gz", gzip.compress(jsonl([{"a": 1}] * 99), mtime=0)[:-9], r"a\.jsonl\.gz: is damaged, cut short"),
        ("a.jsonl.zst", b'{"a": 1}\n', r"a\.jsonl\.zst: is damaged, cut short, or no \.zst file"),
        ("a.jsonl.zst", zstandard(jsonl([{"a": 1}] * 99))[:-9], r"a\.jsonl\.zst: is damaged, cut short"),
        ("a.csv.zip", b"PK", r"a\.csv\.zip: is packed; unpack it first, with `unzip "),
    ],
)
def test_a_bad_file_is_named_with_what_to_do(tmp_path, name, content, said):
    with pytest.raises(ValueError, match=said):
        read(write(tmp_path / name, content))


def test_a_byte_order_mark_names_no_field(tmp_path):
    """As spreadsheets write it."""
    assert read(write(tmp_path / "a.csv", b"\xef\xbb\xbfa,b\r\n1,2\r\n")) == [{"a": "1", "b": "2"}]


def test_a_long_text_is_a_field_like_another(tmp_path):
    """Longer than Python's reader takes by itself."""
    rows = [{"text": "a" * 200_000, "n": "1"}]
    assert read(write(tmp_path / "a.csv", table(rows, ","))) == rows


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.zst"])
def test_what_needs_pyarrow_says_so_before_it_is_read(tmp_path, monkeypatch, name):
    """To who has the wheel alone; other files do not need it."""
    file = write(tmp_path / name, b"")
    monkeypatch.setattr(text_files.importlib.util, "find_spec", lambda _: None)
    for check in (lambda: record_files.check_kind(file), lambda: read(file), lambda: sources.check(f"files:{file}")):
        with pytest.raises(ValueError, match=rf"{name}: .* are read by pyarrow, .*`pip install pyarrow`"):
            check()
    assert read(write(tmp_path / "b.jsonl.gz", gzip.compress(b'{"a": 1}'))) == [{"a": 1}]


def test_a_folder_gives_every_kind(tmp_path):
    """To training and to evaluation alike, in the order of their paths."""
    for number, kind in enumerate(WRITE):
        write(tmp_path / f"{number}{kind}", WRITE[kind]([{"text": kind}]))
    write(tmp_path / "a.txt.gz", gzip.compress(b".txt"))
    found = [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt"]
    assert sorted(found) == sorted(KINDS)
    assert [item["text"] for item in read_items([str(tmp_path)])] == found
    (shard,) = sources.shards(f"files:{tmp_path}", tmp_path)
    assert [document.text for document in sources.documents(shard, "text", ())] == found
    assert [item["text"] for item in read_items([f"{tmp_path}/[0-2]*"])] == found[:3]


def test_a_dotted_path_leads_into_objects_and_lists():
    record = {"a": {"b": [{"c": "x"}, {"c": "y"}]}, "a.b": "its own name", "n": 1}
    assert column(record, "a.b.1.c", "f:1") == "y"
    assert column(record, "a.b", "f:1") == "its own name"
    assert column(record, "n", "f:1") == 1


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nn", "f:1: no field 'nn'; known: answers, name"),
        ("answer.text", r"f:1: no field 'answer.text'; did you mean 'answers'\?"),
        ("answers.texts.0", r"no field 'answers.texts.0', for 'answers' has no 'texts'; did you mean 'text'\?"),
        ("answers.text.1", "no field 'answers.text.1', for 'answers.text' is a list of 1, which are numbered from 0"),
        ("answers.text.-1", "is a list of 1"),
        ("name.0", "for 'name' is a str, which has no fields"),
    ],
)
def test_a_path_that_leads_nowhere_says_how_far_it_led(path, said):
    with pytest.raises(ValueError, match=said):
        column({"answers": {"text": ["x"]}, "name": "y"}, path, "f:1")


def test_text_and_label_of_training_may_lie_within_a_field(tmp_path):
    file = write(tmp_path / "a.jsonl", jsonl([{"about": {"topic": "rain"}, "parts": [{"text": "one"}]}]))
    shard = sources.Shard((str(file),))
    (document,) = sources.documents(shard, "parts.0.text", ("about.topic",))
    assert document == ("one", ("rain",))
    with pytest.raises(ValueError, match=r"'parts.0' has no 'texts'; did you mean 'text'\?; set data\.text_field"):
        list(sources.documents(shard, "parts.0.texts", ()))
