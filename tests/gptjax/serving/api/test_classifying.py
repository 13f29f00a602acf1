"""A head is found by the whole of its name, and an error shows no more than the beginning of one."""

from types import SimpleNamespace
from typing import Any

import pytest

from gptjax.batch import ClassHead
from gptjax.inference.generation_config import GenerationConfig
from gptjax.inference.language_model import LanguageModel
from gptjax.serving.api.classifying import reading
from gptjax.serving.api.requests import Classification
from gptjax.serving.errors import ApiError
from tests.tiny_run import bpe


def test_a_long_name_is_found_whole_and_shown_cut():
    long = "x" * 70
    heads = tuple(ClassHead(name=name, classes=("a", "b")) for name in (long, "x" * 60))
    model: Any = object.__new__(LanguageModel)  # without weights
    model.config = SimpleNamespace(class_heads=heads, T=8, vocabulary=290)
    model.tokenizer, model.generation_config = bpe(), GenerationConfig.of_runs(bpe())

    def found(name: str) -> int:
        return reading(Classification(model="tiny", head=name, ids=((1, 2),), texts=()), model)[0]

    assert [found(long), found("x" * 60)] == [0, 1]
    with pytest.raises(ApiError, match=f"head='{'y' * 60}[.]{{3}}'"):
        found("y" * 1000)
