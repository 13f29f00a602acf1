"""What is asked of the model at the end of a run: the first words of held-out documents, whole and alone."""

import json

import numpy as np
import pytest
from rich.console import Console

from data.token_store import TokenStore
from tests.tiny_run import bpe, random_model
from tests.tiny_text import write_prepared, write_split
from train.report import samples
from train.report.samples import PROMPT_TOKENS, _openings, write_samples

DOCUMENTS = [f"{number}曹操🦊 " * (1 + number % 9) for number in range(60)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return write_prepared(tmp_path_factory.mktemp("samples"), {"fables": DOCUMENTS}, tokenizer=bpe())


@pytest.mark.parametrize("count", [4, 20])
def test_a_prompt_is_the_whole_characters_at_the_start_of_one_document(prepared, count):
    """With more prompts than documents they begin where sentences do; they still end whole."""
    prompts = _openings(prepared / "fables" / "validation", count, random_model())
    assert len(prompts) == count
    starts = DOCUMENTS[-6:]
    for prompt in prompts:
        assert 1 <= len(prompt) <= PROMPT_TOKENS + 1
        text = bpe().decode(prompt)
        assert not text.endswith("\N{REPLACEMENT CHARACTER}")
        if count == 4:
            assert prompt[0] == bpe().bos
            assert bpe().eos not in prompt
            assert any(start.startswith(text) for start in starts)


def cut_text(folder, documents, text, at):
    """A split of documents of which the first is the end of one, as `tail F` may cut it."""
    write_split(folder, bpe(), [text, *documents])
    ids = bpe().encode(text[at:])
    tokens, offsets = np.fromfile(folder / "tokens.bin", "<u2"), np.load(folder / "offsets.npy")
    lost = int(offsets[1]) - len(ids) - 1
    tokens[lost:].tofile(folder / "tokens.bin")
    np.fromfile(folder / "marks.bin", "u1")[lost:].tofile(folder / "marks.bin")
    np.save(folder / "offsets.npy", np.maximum(0, offsets - lost))
    return folder


def test_the_end_of_a_document_is_no_beginning(tmp_path):
    """Whole documents are begun; where there are too few, sentences, and no sentence's lone end."""
    text = "The quick brown fox. Jumps over it? Lazy dogs sleep.\n" * 3
    at = text.index(". Jumps")
    prompts = _openings(cut_text(tmp_path / "many", DOCUMENTS[:9], text, at), 4, random_model())
    assert [prompt[0] for prompt in prompts] == [bpe().bos] * 4
    prompts = _openings(cut_text(tmp_path / "one", [], text, at + 2), 3, random_model())
    starts = [bpe().decode(prompt).strip()[:4] for prompt in prompts]
    assert set(starts) <= {"Jump", "Lazy", "The "}
    assert len(set(starts)) > 1


def test_samples_are_kept_with_their_prompt_source_and_language(prepared, tmp_path):
    write_samples(tmp_path, prepared, random_model(), step=7, samples=2, seed=0, console=Console(quiet=True))
    records = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [(record["source"], record["language"], record["step"]) for record in records] == [("fables", "en", 7)] * 2
    store = TokenStore(prepared / "fables" / "validation")
    assert bpe().decode(np.asarray(store.tokens).tolist()).startswith(records[0]["prompt"])


def test_a_run_that_ends_twice_has_its_samples_once(prepared, tmp_path):
    """As when it is killed while it writes its report; those of an earlier step stay."""
    for step in (7, 9, 9):
        write_samples(tmp_path, prepared, random_model(), step=step, samples=1, seed=0, console=Console(quiet=True))
    lines = (tmp_path / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [7, 9]


def test_few_texts_are_written_at_once_and_they_are_the_same(prepared, tmp_path, monkeypatch):
    """Of five prompts in batches of two, the last is filled up, so that all have one shape."""
    model, asked = random_model(), []
    generate = model.generate

    def noting(prompts, **settings):
        asked.append(len(prompts))
        return generate(prompts, **settings)

    monkeypatch.setattr(model, "generate", noting)
    monkeypatch.setattr(samples, "TOKENS", 8)
    written = []
    for at_once in (5, 2):
        monkeypatch.setattr(samples, "AT_ONCE", at_once)
        run = tmp_path / str(at_once)
        run.mkdir()
        write_samples(run, prepared, model, step=1, samples=5, seed=3, console=Console(quiet=True))
        written.append((run / "samples.jsonl").read_text())
    assert asked == [5, 2, 2, 2]
    assert written[0] == written[1]
