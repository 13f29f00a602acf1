"""data.tokenizer_table: figures that can be counted by hand."""

from pathlib import Path

import numpy as np
import pytest

from data import tokenizer_table
from data.preparation import holdout, sources
from gptjax.text.tokenizer import byte_tokenizer, ready_made, train_bpe
from tests.tiny_text import sentences, write_prepared


def test_bytes_per_token_are_bytes_of_text_over_tokens():
    """One for the byte tokenizer, whatever the text; more for one that was learnt from it."""
    texts = ["the quick 界", "brown fox " * 9]
    assert tokenizer_table.bytes_per_token(byte_tokenizer(), texts) == 1
    learnt = train_bpe(texts, 280)
    tokens = sum(len(learnt.encode(text)) for text in texts)
    assert tokenizer_table.bytes_per_token(learnt, texts) == sum(len(text.encode()) for text in texts) / tokens > 1.5


def test_training_text_is_shared_out_by_share(tmp_path):
    """A source that is short for its share comes several times; held-out documents never do."""
    folder = write_prepared(tmp_path / "prepared", {"long": sentences(200), "short": sentences(5, seed=1)})
    sources = {"long": {"folder": "long", "share": 1.0}, "short": {"folder": "short", "share": 3.0}}
    texts = list(tokenizer_table.training_text(folder, sources, 8000))
    short, held_out = sentences(5, seed=1)[:-1], sentences(5, seed=1)[-1]
    sizes = [sum(len(text) for text in texts if (text in short) == wanted) for wanted in (False, True)]
    assert sizes == pytest.approx([2000, 6000], abs=250)
    assert texts.count(short[0]) > 5
    assert held_out not in texts


def test_the_table_has_a_line_a_source_a_language_and_one_for_what_is_lost():
    held_out = {"a": ["ab"], "b": ["é"], "c": ["cd", "e"]}
    table = tokenizer_table.table(held_out, {"a": "en", "b": "fr", "c": "en"}, {"bytes": byte_tokenizer()})
    assert list(table.columns[0].cells) == [
        "a (en)",
        "b (fr)",
        "c (en)",
        "all en",
        "all fr",
        "documents given back exactly",
    ]
    assert list(table.columns[1].cells) == ["1.00"] * 5 + ["100%"]
    assert table.columns[1].header == "bytes (260)"


def test_the_page_has_the_figures_of_the_ready_made_tokenizers():
    """docs/tokenizers.md: how many tokens each has in its tables, and which id is byte 0."""
    page = (Path(__file__).parents[2] / "docs" / "tokenizers.md").read_text(encoding="utf-8")
    tokenizers = {name: ready_made(name) for name in ("bytes", "gpt2")}
    (heading,) = (line for line in page.splitlines() if line.startswith("| text "))
    for name, one in tokenizers.items():
        assert f"| {name} ({one.size:,}) |" in heading
    first = tokenizers["bytes"].encode("\0")
    special = len(tokenizers["bytes"].special_ids)
    assert f"256 bytes and {special} special tokens, {256 + special} in all: id {first[0]} is byte 0" in page
    assert f"GPT-2's own {tokenizers['gpt2'].size - 1:,}, and a mask" in page


def test_a_figure_of_the_page_is_what_is_counted_again(tmp_path):
    """GPT-2 on the held-out chapters of the Chinese novel, which any machine can make in seconds."""
    [shard] = sources.shards("three_kingdoms", tmp_path)
    texts = [document.text for document in sources.documents(shard, "text", ())]
    rows_J = np.array([holdout.measured(text) for text in texts], np.uint64).view(holdout.MEASURED)[:, 0]
    plan = holdout.plans(["three_kingdoms"], [rows_J], "hash", 0.05)["three_kingdoms"]
    held_out = [text for text, split in zip(texts, plan.split_J, strict=True) if split == holdout.VALIDATION]
    found = tokenizer_table.bytes_per_token(ready_made("gpt2"), held_out)
    page = (Path(__file__).parents[2] / "docs" / "tokenizers.md").read_text(encoding="utf-8")
    (line,) = (line for line in page.splitlines() if line.startswith("| three_kingdoms "))
    assert line.split("|")[-2].strip() == f"{found:.2f}"
