"""Text in files: training and evaluation read the same of a file, and say the same of a bad one."""

import pytest

from data.preparation import sources
from gptjax.evaluation.items import read_items
from gptjax.files.bounded_files import parse_json

BOM = b"\xef\xbb\xbf"


def trained(file):
    return [document.text for document in sources.documents(sources.Shard((str(file),)), "text", ())]


def evaluated(file):
    return [item["text"] for item in read_items([str(file)])]


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("read", [trained, evaluated])
def test_a_byte_order_mark_is_no_text(tmp_path, read):
    """With it and without, a file is the same; so are files that were joined, and settings of other people."""
    for name, content in {
        "a.txt": "one 長\r\n".encode(),
        "a.jsonl": b'{"text": "one"}\r\n{"text": "two\\r\\n"}\r\n',
    }.items():
        plain = read(write(tmp_path / name, content))
        assert read(write(tmp_path / name, BOM + content)) == plain
    assert read(write(tmp_path / "a.jsonl", 2 * (BOM + b'{"text": "one"}\n'))) == ["one", "one"]
    assert parse_json(BOM + b'{"a": 1}') == {"a": 1}


@pytest.mark.parametrize("whole", [10, 1000])
def test_a_byte_order_mark_is_no_text_of_a_large_file_either(tmp_path, monkeypatch, whole):
    """However it is cut; nor does it move the number of the byte that is wrong."""
    monkeypatch.setattr(sources, "WHOLE", whole)
    monkeypatch.setattr(sources, "PIECE", 10)
    assert "".join(trained(write(tmp_path / "a.txt", BOM + b"one\ntwo\n\nthree\n"))) == "one\ntwo\n\nthree\n"
    with pytest.raises(ValueError, match=r"a\.txt:1: byte 2 of the line \(0xe9\) is not UTF-8"):
        trained(write(tmp_path / "a.txt", BOM + b"o\xe9\ntwo\n"))


@pytest.mark.parametrize("read", [trained, evaluated])
@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (b'{"text": "a", "n": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"text": "a", "n": ' + b"1" * 5000 + b"}", "a whole number has too many digits; write it as text"),
        (b'{"text": "a", "n": "\\ud83d!"}', "half of a surrogate pair"),
        (b'{"text": "a", "n": NaN}', "NaN is no number of JSON; write null"),
        (b'{"text": "a\x00b"}', "not JSON: Invalid control character"),
        (b"3", "a int; a line is an object"),
    ],
)
def test_a_bad_line_is_named_alike(tmp_path, read, bad, said):
    file = write(tmp_path / "a.jsonl", b'{"text": "a"}\r\n\r\n' + bad + b"\n")
    with pytest.raises(ValueError, match=rf"a\.jsonl:3: .*{said}"):
        read(file)


@pytest.mark.parametrize("read", [trained, evaluated])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
@pytest.mark.parametrize("text", ['{"text": "a b"}\n', '{"text": "жизнь и судьба"}\n', '{"text": "\U0001f600"}\n'])
def test_text_in_units_of_16_or_32_bits_is_refused_by_name(tmp_path, read, encoding, name, text):
    """Marked or not, it would be text full of NULs, or have the wrong advice."""
    with pytest.raises(
        ValueError, match=rf"{name}: is {encoding.upper().replace('-LE', 'LE').replace('-BE', 'BE')}, or"
    ):
        read(write(tmp_path / name, text.encode(encoding)))


@pytest.mark.parametrize("read", [trained, evaluated])
def test_a_single_nul_is_text(tmp_path, read):
    """As it was: one stray character is no other encoding."""
    text = "a line of text\n" * 20
    assert read(write(tmp_path / "a.txt", (text + "\0" + text).encode())) == [text + "\0" + text]


@pytest.mark.parametrize("read", [trained, evaluated])
def test_chinese_in_units_of_16_bits_is_told_from_latin1(tmp_path, read):
    """It has few NULs, at the ends of lines; the advice is the right one."""
    content = ("三國演義" * 40 + "\n").encode("utf-16-le")
    with pytest.raises(ValueError, match=r"a\.txt:1: byte .* is not UTF-8; if the file is UTF-16: `iconv -f UTF-16LE"):
        read(write(tmp_path / "a.txt", content))
