"""Files of a source: what folders and patterns give, and what is said of the rest."""

import os
import subprocess
from pathlib import Path

import pytest

from data.preparation import sources
from gptjax.text.record_files import KNOWN
from gptjax.text.source_files import find
from tests.tiny_run import random_model, write_run
from tests.tiny_text import write_prepared


def write(path, content="one"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def names(pattern, base):
    return [str(path.relative_to(base)) for path in find(Path(pattern)).files]


@pytest.mark.parametrize("folder", ["tx[1]", "a*b", "what?", "[a-c]"])
def test_a_path_that_exists_is_no_pattern(tmp_path, folder):
    """As a whole, and as the beginning of one; a neighbour that the pattern would match is not read."""
    write(tmp_path / folder / "x.txt")
    write(tmp_path / "tx1" / "y.txt")
    write(tmp_path / "b" / "y.txt")
    for pattern in (f"{folder}/*.txt", f"{folder}/**/x.txt", folder, f"{folder}/x.txt"):
        assert names(tmp_path / pattern, tmp_path) == [f"{folder}/x.txt"]
    assert names(tmp_path / "tx[12]" / "*.txt", tmp_path) == ["tx1/y.txt"]


@pytest.mark.parametrize("pattern", ["", "*", "**", "**/*", "**/*.txt"])
def test_hidden_names_are_left_out_unless_they_are_named(tmp_path, pattern):
    """By folders and globs alike, as shells do."""
    for name in ("a.txt", "b/c.txt", "._a.txt", "b/._c.txt", ".ipynb_checkpoints/a.txt", "b/.cache/d.txt"):
        write(tmp_path / "text" / name)
    assert names(tmp_path / "text" / pattern, tmp_path / "text") == ["a.txt", "b/c.txt"]
    assert names(tmp_path / "text/._a.txt", tmp_path / "text") == ["._a.txt"]
    assert names(tmp_path / "text/.*/*.txt", tmp_path / "text") == [".ipynb_checkpoints/a.txt"]
    assert names(tmp_path / "text/b/.cache", tmp_path / "text") == ["b/.cache/d.txt"]


@pytest.mark.parametrize("pattern", ["", "*", "**", "**/*.txt"])
def test_a_linked_folder_is_read_once(tmp_path, pattern):
    """By folders and globs alike; a loop ends, and a second way to a folder gives no second document."""
    write(tmp_path / "elsewhere" / "far.txt")
    text = tmp_path / "text"
    write(text / "near" / "x.txt")
    (text / "near" / "up").symlink_to(text)
    (text / "a second name").symlink_to(text / "near")
    (text / "far").symlink_to(tmp_path / "elsewhere")
    (text / "linked.txt").symlink_to(tmp_path / "elsewhere" / "far.txt")
    assert names(text / pattern, text) == ["far/far.txt", "linked.txt", "near/x.txt"]


def test_what_is_not_read_is_told_with_counts(tmp_path):
    """With the source, and where nothing is left in the error."""
    for name in (
        "a.txt",
        "b.md",
        "c.md",
        "d.txt.xz",
        "e.doc",
        ".f.txt",
        ".DS_Store",
        "LICENSE",
        "g.log",
        "h.html",
        "i.pdf",
    ):
        write(tmp_path / name)
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    said = sources.describe(f"files:{tmp_path}", tmp_path).warning
    assert said.startswith(f"not read, for only {KNOWN} are: 2 .md, 1 ")
    assert said.endswith("and 4 more")
    for name in ("a.txt", "gone.txt"):
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=r"no file there that is read \(\.txt, .*\); not read, .*2 \.md, "):
        sources.check(f"files:{tmp_path}")
    alone = write(tmp_path / "alone" / "a.txt")
    assert sources.describe(f"files:{alone.parent}", tmp_path).warning is None


def test_a_file_named_outright_is_text_unless_its_kind_is_known(tmp_path):
    """As in an evaluation; what can be done is said of the others."""
    file = write(tmp_path / "a.md", "# one")
    assert sources.shards(f"files:{file}", tmp_path) == [sources.Shard((str(file),))]
    for name, advice in {"b.txt.xz": "unxz", "c.zip": "unzip"}.items():
        with pytest.raises(ValueError, match=rf"{name}: .*`{advice} "):
            sources.check(f"files:{write(tmp_path / name)}")


def test_what_gptjax_wrote_is_no_source(tmp_path, monkeypatch):
    """Begun inside the folder of the text, and gone on with: runs, prepared text, also unfinished, and results are not
    read, which is told; the source stays what it was, and text beside them is read."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.txt")
    write(tmp_path / "runs" / "notes.txt")
    before = sources.identity("files:.")
    write_run(tmp_path / "runs" / "first", random_model())
    write(tmp_path / "runs" / "first" / "samples.jsonl", '{"text": "a"}\n')
    write_prepared(tmp_path / "prepared" / "0123456789abcdef", {"it": ["a b"] * 20})
    write(tmp_path / "prepared" / "0123456789abcdef" / "it" / "validation" / "text.txt")
    for kind in ("partial", "partial-0a1b2c3d"):
        write(tmp_path / "prepared" / f"0123.{kind}" / "done" / "00-it" / "validation" / "text.txt")
    for name in ("result.json", "items.jsonl"):
        write(tmp_path / "results" / "quiz" / name)
    for name in ("dataset_info.json", "features.json", "topic.labels.txt"):
        write(tmp_path / "prepared" / "corpora" / "wiki" / name)
    for pattern in ("files:.", "files:**", "files:**/*", "files:*", "files:**/*.*"):
        assert sources.identity(pattern) == before
        said = sources.describe(pattern, tmp_path).warning
        for told in ("prepared/0123456789abcdef (prepared text)", "results/quiz (results of an evaluation)", "a run)"):
            assert told in said
    with pytest.raises(ValueError, match=r"no file there that is read .*; left out .*runs/first \(a run\)"):
        sources.check("files:runs/first")
    write(tmp_path / "b.txt")
    assert sources.identity("files:.") != before


def test_names_that_ours_share_with_others_are_read(tmp_path):
    """A cookbook's recipe.json, a model.json alone."""
    for name in ("recipe.json", "model.json", "result.json", "a.txt"):
        write(tmp_path / name)
    assert names(tmp_path, tmp_path) == ["a.txt", "model.json", "recipe.json", "result.json"]


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    """It is not left out in silence."""
    write(tmp_path / "closed" / "a.txt")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(OSError, match="closed"):
        find(tmp_path)


def test_a_home_that_is_not_there_is_no_traceback(tmp_path):
    with pytest.raises(ValueError, match="no file or folder ~nobody_of_this_name"):
        sources.check("files:~nobody_of_this_name/a.txt")


def test_the_advice_for_other_encodings_works(tmp_path):
    """Each as iconv takes it, with a byte order mark and without; the file is then read."""
    text = "Der Käse, the Boar's head\r\nand another line\r\n" * 20
    for encoding in ("utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "latin1"):
        file = tmp_path / f"the {encoding}.txt"
        file.write_bytes(text.encode(encoding))
        with pytest.raises(ValueError, match="UTF-8") as raised:
            [*sources.documents(sources.Shard((str(file),)), "text", ())]
        assert str(file) in str(raised.value)
        command = str(raised.value).split("`")[1]
        subprocess.run(command, shell=True, check=True)
        (document,) = sources.documents(sources.Shard((str(file),)), "text", ())
        assert document.text == text
