"""The training program as a person meets it: mistakes are answered at once, in a line, without importing JAX."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gptjax.command.options import options
from tests.train.test_recipe import leaves
from train.recipe import Recipe

ROOT = Path(__file__).parents[2]


def program(*arguments: str, first: str = "") -> subprocess.CompletedProcess:
    """Runs the program in a process where importing JAX or TensorFlow is an error."""
    forbid = "import sys; sys.modules.update(jax=None, tensorflow=None);"
    code = f"{forbid} {first} from train.__main__ import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.fault(50)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pretrian"], "unknown verb 'pretrian'; did you mean 'pretrain'?"),
        (["pretrain", "laptopp"], "unknown recipe 'laptopp'; did you mean 'laptop'?"),
        (["pretrain", "--data.sources", "chitchatt"], "no corpus 'chitchatt'; did you mean 'chitchat'?"),
        (["pretrain", "--data.sources", "files:/nowhere/at/all"], "/nowhere/at/all"),
        (["pretrain", "--model.N", "6", "--model.K", "4"], "model.K=4 does not divide model.N=6"),
        (["pretrain", "--model.N", "5"], "model.D=192 is not a multiple of model.N=5 heads"),
        (["pretrain", "--model.DD", "5"], "unknown option '--model.DD'; did you mean '--model.D'?"),
        (["pretrain", "--learning-rate", "1"], "did you mean '--optimizer.learning-rate'?"),
        (["pretrain", "--accept-change"], "did you mean '--accept-changes'?"),
        (["pretrain", "--model.head-widht", "8"], "did you mean '--model.head-width'?"),
        (["pretrain", "--objectives.rows", "causl_lm"], "no task 'causl_lm'; did you mean 'causal_lm'?"),
        (["pretrain", "--steps", "lots"], "lots"),
        (["report", "/nowhere"], "give one run directory"),
        (["bench", "laptopp"], "unknown recipe 'laptopp'; did you mean 'laptop'?"),
        (["bench", "--steps", "none"], "--steps none: give a whole number"),
        (["bench", "--json", "/no/such/folder/x.json"], "there is no folder /no/such/folder"),
        (["bench", "--against", "charcters"], "unknown recipe 'charcters'; did you mean 'characters'?"),
        (["bench", "--against", "--model.N 5"], "model.D=192 is not a multiple of model.N=5 heads"),
        (["bench", "--against", ""], "--against: empty"),
        (["bench", "--against", "characters", "--compile-for", "v5e:4x4"], "give one of them"),
        (["bench", "--json"], "--json: a value must follow"),
        (["plan"], "plan: say on which chips, with --device"),
        (["plan", "--device", "v5p:4x4x9"], "--device v5p:4x4x9: v5p has no such topology; did you mean '4x4x8'?"),
        (["plan", "--device", "h10:8"], "did you mean 'h100'?"),
        (["plan", "--device", "h100:8", "--size", "llama-7bb"], "unknown size 'llama-7bb'; did you mean 'llama-7b'?"),
        (["plan", "--device", "h100:8", "--tokens", "-1"], "--tokens -1: must be a number above 0"),
        (["plan", "--device", "h100:8", "--price", "free"], "--price free: give a number"),
        (["audit", "/nowhere"], "audit: give one run directory"),
        (["verify-resume", "--steps", "7"], "--steps 7: give an even number of steps, from 2 to the recipe's 1000"),
        (["verify-resume", "laptopp"], "unknown recipe 'laptopp'; did you mean 'laptop'?"),
    ],
)
def test_a_mistake_is_answered_without_importing_jax(arguments, said):
    done = program(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_compiled_steps_are_kept_where_the_user_keeps_caches_unless_told_otherwise():
    """A stand-in for the loop prints the folder that JAX will read at its import."""
    loop = "import os, types; pretrain = lambda *_, **__: print('kept in', os.environ['JAX_COMPILATION_CACHE_DIR']);"
    stand_in = f"{loop} sys.modules['train.pretrain'] = types.SimpleNamespace(pretrain=pretrain);"
    name = "JAX_COMPILATION_CACHE_DIR"
    said = program(
        "pretrain", first=f"{stand_in} os.environ.pop('{name}', 0); os.environ['XDG_CACHE_HOME'] = '/caches';"
    ).stdout
    assert said == "kept in /caches/gptjax/compiled\n"
    said = program("pretrain", first=f"{stand_in} os.environ['JAX_COMPILATION_CACHE_DIR'] = '/mine';").stdout
    assert said == "kept in /mine\n"


def test_help_shows_what_one_needs_and_help_all_every_setting_with_its_default():
    overview = program("--help")
    assert overview.returncode == 0
    assert "laptop" in overview.stdout
    plain = program("pretrain", "characters", "--help")
    assert plain.returncode == 0
    assert "nanoGPT" in plain.stdout
    lines = plain.stdout.splitlines()
    assert len(lines) < 80
    shown = {line.split()[0] for line in lines if line.startswith("  --")}
    assert shown >= {"--size", "--accept-changes", "--run", "--steps", "--seed", "--data.sources", "--objectives.rows"}
    assert 20 <= len(shown) <= 25
    assert "--optimizer.beta1" not in shown
    every = program("pretrain", "characters", "--help-all").stdout
    assert [path for path in leaves(Recipe) if f"--{path.replace('_', '-')}" not in every] == []
    assert re.search(r"--optimizer\.learning-rate NUMBER\s+the learning rate at its peak \(default: 0\.004\)", every)
    assert all(option.says for option in options(Recipe)), "a setting without a word of help"


def test_a_verb_says_what_it_takes():
    """Its own options beside those of the recipe."""
    assert {"--against", "--compile-for", "--size"} <= set(program("bench", "--help").stdout.split())
    assert "NAME" in program("experiment", "--help").stdout
