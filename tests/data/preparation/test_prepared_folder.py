"""What a prepared folder says of itself: its table, its text, and what xz makes of that."""

import lzma

import pytest

from data.preparation import prepared_folder
from data.prepare import prepare
from tests.data.test_prepare import described, some_documents, spec_of, stored, write_jsonl


def test_xz_figures_are_bits_per_byte_and_kept_for_the_next_run(tmp_path, monkeypatch):
    """Text that repeats the training text costs less once that was seen. Of other text they are made anew, and where
    nothing can be kept; the folder itself is only read."""
    monkeypatch.setenv("GPTJAX_CACHE", str(tmp_path / "cache"))
    texts = some_documents(200)
    folder = prepare(spec_of(tmp_path, f"files:{write_jsonl(tmp_path / 'a.jsonl', texts)}"))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    figures = prepared_folder.xz_figures(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    (figure,) = figures.values()
    validation = "".join(stored(folder, "validation")).encode()
    assert figure["alone"] == pytest.approx(8 * len(lzma.compress(validation, preset=9)) / len(validation))
    assert 0 < figure["after_training_text"] < figure["alone"] < 8
    monkeypatch.setattr(prepared_folder, "_xz_figure", None)
    assert prepared_folder.xz_figures(folder) == figures
    monkeypatch.setattr(prepared_folder, "_xz_figure", lambda *_: {"alone": 1.0})
    other = prepare(spec_of(tmp_path, f"files:{write_jsonl(tmp_path / 'b.jsonl', texts[1:])}"))
    assert list(prepared_folder.xz_figures(other).values()) == [{"alone": 1.0}]
    (tmp_path / "file").touch()
    monkeypatch.setenv("GPTJAX_CACHE", str(tmp_path / "file"))
    assert list(prepared_folder.xz_figures(folder).values()) == [{"alone": 1.0}]


def test_only_the_end_of_a_long_training_text_is_decoded(tmp_path):
    folder = prepare(spec_of(tmp_path, f"files:{write_jsonl(tmp_path / 'a.jsonl', some_documents(200))}"))
    texts = stored(folder, "train")
    size = sum(len(text.encode()) for text in texts[-3:])
    source_folder = described(folder)["folder"]
    assert list(prepared_folder.stored_text(folder, source_folder, "train", last_bytes=size)) == texts[-3:]
    assert list(prepared_folder.stored_text(folder, source_folder, "train", last_bytes=size - 1)) == texts[-2:]


def test_the_table_has_a_line_a_source(tmp_path, capsys):
    """With documents, bytes, tokens, duplicates, what is held out and its share of documents and bytes, and licence."""
    texts = some_documents(200)
    folder = prepare(spec_of(tmp_path, f"files:{write_jsonl(tmp_path / 'a.jsonl', [*texts, texts[0]])}"))
    output = capsys.readouterr().out
    line = next(line for line in output.splitlines() if "yours" in line)
    held = described(folder)["splits"]["validation"]
    reached = held["bytes"] / sum(len(text) for text in texts)
    shares = {str(held["documents"]), f"({held['documents'] / 200:.1%})", f"({reached:.1%})"}
    assert {"200", "1", "yours", "100%"} | shares <= set(line.split())
    assert "are held out, for rough figures" in output
