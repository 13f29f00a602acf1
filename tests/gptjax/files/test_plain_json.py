"""JSON that every reader takes, and that nothing here writes any other."""

import ast
import json
import math
from pathlib import Path

import numpy as np
import pytest

from gptjax.files.plain_json import dumps, loads

ROOT = Path(__file__).parents[3]
# Values of these never hold a float, or go to no file that others read.
OTHERS = {
    "gptjax/files/plain_json.py",
    "gptjax/evaluation/items.py",  # looks whether text can be written, and writes nothing
    "gptjax/files/bounded_files.py",  # the same
    "gptjax/text/text_files.py",  # the same
    "gptjax/text/tokenizer.py",  # rules of the package tokenizers, which hold no numbers
    "gptjax/inference/template.py",  # tojson of a chat template, as transformers has it
}


def strict(text: str):
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_what_is_no_number_is_null_and_what_is_one_is_itself():
    value = {"a": math.nan, "b": [1.5, -math.inf, (2, np.float32(0.5))], "c": np.array([1.0, np.nan]), "d": "NaN"}
    assert strict(dumps(value)) == {"a": None, "b": [1.5, None, [2, 0.5]], "c": [1.0, None], "d": "NaN"}
    assert dumps({"é": 1}, ensure_ascii=False) == '{"é": 1}'


@pytest.mark.parametrize("folder", ["gptjax", "train"])
def test_whoever_writes_json_uses_it_or_refuses_what_is_no_number(folder):
    """Every call of json.dump and json.dumps says allow_nan=False, or stands in a file that is known to be harmless."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func) in ("json.dumps", "json.dump"):
                strictly = any(word.arg == "allow_nan" and ast.unparse(word.value) == "False" for word in call.keywords)
                assert strictly or str(path.relative_to(ROOT)) in OTHERS, f"{path}, line {call.lineno}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": ', r"^not JSON: Expecting value at character 7$"),
        ('{"a":\n [1, }', r"^not JSON: .* at line 2, character 6$"),
        ("[" * 100_000, "nested too deeply"),
        ("1" * 5_000, "too many digits; write it as text"),
        (r'["\uD83D!"]', "half of a surrogate pair"),
    ],
)
def test_what_cannot_be_read_is_a_value_error_of_one_line(text, said):
    with pytest.raises(ValueError, match=said):
        loads(text)


def test_whole_surrogate_pairs_and_options_are_read():
    assert loads(r'["\ud83d\ude00", NaN]', parse_constant=str) == ["\U0001f600", "NaN"]
