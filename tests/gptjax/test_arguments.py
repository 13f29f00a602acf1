"""What callers give: NumPy's numbers are numbers, what is of the wrong kind is refused in one line."""

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from gptjax.arguments import dtype_name, real, text, token_ids, whole

GOOD = """
import jax.numpy as jnp
import numpy as np
from tests.tiny_run import bpe, random_model

model = random_model()
ids = [5, 6, 7]
wanted = model.generate([ids], tokens=3, seed=4, top_k=9, temperature=0.5)
bias = {np.int64(9): np.float32(0)}
found = [
    model.generate(one, tokens=np.int64(3), seed=np.uint32(4), top_k=np.int8(9), temperature=np.float32(0.5),
                   samples=np.int64(1), slots=np.int64(16), stop=[], logit_bias=bias)
    for one in (
        np.array(ids), np.array([ids], np.uint16), [np.array(ids)], list(np.array(ids)), iter([ids]),
        jnp.array(ids), jnp.array([ids]), list(jnp.array(ids)),
    )
]
assert found == [wanted] * 8, found
drawn = model.generate(ids, tokens=jnp.int32(3), seed=jnp.uint32(4), top_k=9, temperature=jnp.float32(0.5))
assert drawn == wanted, drawn
assert model.generate(ids, tokens=2, top_k=3_000_000_000) == model.generate(ids, tokens=2)
assert list(model.stream(np.array(ids), tokens=3)) == list(model.stream(ids, tokens=3))
assert (model.log_probs([np.array(ids)])[0] == model.log_probs([ids])[0]).all()
"""
BAD = {
    "generate(b'the')": "prompts: must be text, token ids or a list of such, not a bytes",
    "generate([b'the'])": "a prompt: must be text, or a list of token ids, not a bytes",
    "generate(None)": "prompts: must be text, token ids or a list of such, not None",
    "generate([None])": "a prompt: must be text, or a list of token ids, not None",
    "generate(Path('the'))": "prompts: must be text, token ids or a list of such, not a PosixPath",
    "generate([5.0, 6.0])": "a prompt: token id=5.0: must be a whole number, not a float",
    "generate([True])": "a prompt: token id=True: must be a whole number, not a bool",
    "generate(np.ones(3))": "a prompt: token id=1.0: must be a whole number",
    "generate(np.ones((1, 2, 3), int))": "this array has shape (2, 3)",
    "generate([{'role': 'user', 'content': 'x'}])": "a conversation is no prompt; gptjax.inference.chat.Chat talks",
    r"generate('a\ud800b')": r"a prompt: character 1 is '\ud800', half of a surrogate pair",
    "generate('a', tokens=1.5)": "tokens=1.5: must be a whole number, not a float",
    "generate('a', tokens=True)": "tokens=True: must be a whole number, not a bool",
    "generate('a', seed=None)": "seed=None: must be a whole number, not None",
    "generate('a', seed=1.5)": "seed=1.5: must be a whole number",
    "generate('a', top_k=3e9)": "top_k=3000000000.0: must be a whole number, not a float",
    "generate('a', temperature=None)": "temperature=None: must be a number, not None",
    "generate('a', top_p='x')": "top_p='x': must be a number, not a str",
    "generate('a', logit_bias=[1])": "logit_bias=[1]: must be token -> number, not a list",
    "generate('a', logit_bias={1.5: 1})": "logit_bias: token=1.5: must be a whole number",
    "generate('a', logit_bias={5: 'x'})": "logit_bias[5]='x': must be a number",
    "generate('a', stop='x')": "stop='x': must be a tuple of strings, not a str",
    "generate('a', stop=(b'x',))": "stop: must be text (str), not a bytes; decode it first",
    "generate('a', samples=1.5)": "samples=1.5: must be a whole number",
    "generate('a', max_new_tokens=5)": "unknown setting 'max_new_tokens'; did you mean 'tokens'?",
    "log_probs('abc')": "texts: must be a list of lists of token ids, not a str",
    "log_probs([b'abc'])": "text 0: must be a list of token ids, not a bytes",
    "log_probs([5, 6])": "text 0: must be a list of token ids, not a int",
    "log_probs(None)": "texts: must be a list of lists of token ids, not None",
    "loglikelihood([('a', None)])": "pair 0: must be text (str), not None",
    r"loglikelihood([('a', '\udcff')])": r"pair 0: character 0 is '\udcff'",
    "loglikelihood(None)": "pairs: must be a list of them, not None",
    "loglikelihood_rolling([b'a'])": "texts[0]: must be text (str), not a bytes",
    r"perplexity(['a', '\ud800'])": r"texts[1]: character 0 is '\ud800'",
    "perplexity(Path('x'))": "texts: must be a list of them, not a PosixPath",
    "perplexity(['a'], batch_tokens=1.5)": "batch_tokens=1.5: must be a whole number",
    "class_log_probs([[5]], 0)": "head=0: this model has 0",
}
LOAD = {
    "load(None)": "path: must be the folder of a model or a .gguf file, not None",
    "load(b'run')": "path: must be the folder of a model or a .gguf file, not a bytes",
    "load('run', weights='foo')": "weights='foo'; known: ema, trained",
    "load('run', weights='emma')": "weights='emma'; did you mean 'ema'?",
    "load('run', dtype='flaot32')": "dtype='flaot32'; did you mean 'float32'?",
    "load('run', dtype=int)": "dtype=<class 'int'>; ",
    "load('run', dtype=None)": "dtype=None; known: bfloat16, float16, float32",
    "load('run', step='10')": "step='10': must be a whole number, not a str",
    "export(model, None)": "path: must be that of a folder or a .gguf file to make, not None",
    "export('run', 'out')": "model: is the path 'run'; load it first, with gptjax.load",
}
REFUSE = """
import json, sys
from pathlib import Path
import gptjax
import numpy as np
from tests.tiny_run import bpe, reciter

model, answers = reciter([5], bpe()), {}
for call in json.loads(sys.argv[1]):
    try:
        answers[call] = repr(eval(("gptjax." if call[:4] in ("load", "expo") else "model.") + call))
    except ValueError as error:
        answers[call] = str(error)
    except Exception as error:
        answers[call] = repr(error)
print(json.dumps(answers))
"""


def outside(program, *words):
    """What it prints in a process in which nobody checks annotations."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", program, *words]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_numbers_and_arrays_of_numpy_and_jax_are_as_good_as_pythons():
    """As ids, as settings; a top_k beyond the vocabulary takes all of it."""
    outside(GOOD)


def test_what_is_of_the_wrong_kind_is_refused_in_one_line():
    """In every call of the API, before anything is compiled."""
    wanted = BAD | LOAD
    found = json.loads(outside(REFUSE, json.dumps(list(wanted))))
    assert {call: said for call, said in found.items() if wanted[call] not in said or "\n" in said} == {}


def test_numbers_are_told_from_what_is_none():
    assert (whole("n", np.int16(7)), type(whole("n", np.int16(7)))) == (7, int)
    assert (real("x", np.float32(0.5)), real("x", 3), real("x", Fraction(1, 2))) == (0.5, 3, 0.5)
    for check, bad in ((whole, 1.0), (whole, "1"), (whole, True), (real, "1"), (real, None), (real, False)):
        with pytest.raises(ValueError, match=r"^n="):
            check("n", bad)


def test_text_is_what_utf_8_can_write():
    assert text("t", "曹操 🦊 \0") == "曹操 🦊 \0"
    with pytest.raises(ValueError, match="t: character 2 is"):
        text("t", "ab\udc80")


def test_ids_come_as_lists_of_whole_numbers():
    for given in ([5, 6], (5, 6), np.array([5, 6]), [np.int64(5), 6], range(5, 7)):
        assert token_ids("p", given) == [5, 6]
        assert [type(id) for id in token_ids("p", given)] == [int, int]


def test_a_dtype_is_known_by_any_of_its_names():
    names = ("bfloat16", ml_dtypes.bfloat16, np.float32, np.dtype("float16"), "f4", "int8")
    assert [dtype_name(one) for one in names] == ["bfloat16", "bfloat16", "float32", "float16", "float32", "int8"]
    for bad in ("float64", "int4", 5, None, "{", "f4,f4"):
        with pytest.raises(ValueError, match=r"^dtype="):
            dtype_name(bad)
