"""docs/evaluation.md does what it says: its Python and its commands run, in order, on its own files."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from gptjax.cli import main
from tests.tiny_run import random_model, write_run

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "evaluation.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What the page calls runs/first, and the files that it shows."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "first", random_model())
    files = re.findall(r"^`(\S+)`:\n\n```\w*\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert [name for name, _ in files] == ["novel.txt", "news.jsonl", "quiz.jsonl", "questions.jsonl"]
    for name, content in files:
        (tmp_path / name).write_text(content, encoding="utf-8")
    return tmp_path


def test_the_python_of_the_page_runs(folder):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 7
    names = {}
    for block in blocks:
        exec(block, names)
    assert names["first"].log_prob < 0
    assert names["both"].metrics["nats a token"].value > 0
    assert (folder / "results" / "mine" / "items.jsonl").is_file()


def test_the_commands_of_the_page_run(folder, monkeypatch, capsys):
    commands = re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(commands) == 4
    for command in commands:
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        main()
    assert capsys.readouterr().out.count("95 % interval") == 4
    assert {path.name for path in (folder / "results").iterdir()} == {"text", "quiz"}
