"""`plan`: which candidate is suggested, what is told, and what where none fits. The compiler is played by a table."""

import dataclasses
import io
import json
import re
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from gptjax.command.options import take
from gptjax.config import SIZES
from tests.tiny_recipe import recipe
from train.planning import plan as plan_module
from train.planning import search as search_module
from train.planning.compile_for import CompiledFor, TooLargeError
from train.planning.compiler_process import CompilerEndedError, CompilerProcess
from train.planning.plan import plan, tell
from train.planning.plan_options import Planning
from train.recipe import BatchSpec, MeshSpec, OptimizerSpec
from train.recipe_words import parse


def asked_of(tmp_path, said=frozenset(), size="small", optimizer="adamw", **asked):
    made = recipe(
        tmp_path, "run", model=SIZES[size](), mesh=MeshSpec(), batch=BatchSpec(rows=8),
        optimizer=OptimizerSpec(name=optimizer, warmup=2),
    )  # fmt: skip
    made = dataclasses.replace(made, data=dataclasses.replace(made.data, tokenizer="bpe", vocabulary=4096))
    return plan(Planning(**asked), made, said, lambda _: None)


def shown(found):
    console = Console(record=True, width=160, file=io.StringIO())
    tell(found, console)
    return console.export_text()


def test_gpus_are_planned_by_arithmetic_and_it_says_so(tmp_path):
    """The suggestion is the fastest a token that fits; kinds of memory sum to the whole; hours and price follow."""
    found = asked_of(tmp_path, device="h100:8x2", tokens=1e9, price=2.0)
    fitting = [one for one in found.tried if one.fits]
    assert found.best.pace(found.machines) == min(one.pace(found.machines) for one in fitting)
    assert sum(found.memory().values()) == pytest.approx(found.best.memory)
    low, high = found.hours()
    assert 0 < low <= high
    told = found.as_json()
    assert told["price"] == [low * 16 * 2.0, high * 16 * 2.0]
    assert told["verified_by"] is None
    assert len(told["tried"]) == len(found.tried) <= 24
    json.dumps(told, allow_nan=False)
    text = shown(found)
    assert "unverified" in text
    assert "suggested: --mesh.fsdp" in text
    twice = asked_of(tmp_path, device="h100:8x2", tokens=2e9, price=2.0)
    assert twice.hours() == pytest.approx((2 * low, 2 * high))


def test_where_nothing_fits_it_says_what_would_be_enough(tmp_path):
    """A model of 7B on one GPU: no candidate, so the one that lacks least, and more of the same."""
    found = asked_of(tmp_path, size="llama-7b", device="a100-40gb:2")
    assert not any(one.fits for one in found.tried)
    text = shown(found)
    assert "does not fit" in text
    assert "--device a100-40gb:2x" in text
    assert found.as_json()["hours"] is None


@pytest.fixture
def compiler(monkeypatch):
    """Stands in for the TPU's: refuses what keeps everything, gives cycles by the number of its call."""
    calls = []

    def compiled(compiler, made, vocabulary):
        calls.append(made)
        if made.compute.remat == "none":
            raise TooLargeError("v5e:4x4", "the step needs 20GB of 15.75GB a chip", "change one of: ...")
        return CompiledFor(
            topology="v5e:4x4", chip="TPU v5 lite", mesh={}, argument_bytes=3 * 10**9, peak_bytes=6 * 10**9,
            temporary_bytes=0, collective_bytes={"all-gather": 10**6}, program_bytes=10**6, compile_seconds=1.0,
            far_bytes={"all-reduce": 2 * 10**9} if made.mesh.over(32)["data"] % 2 == 0 else {},
            cycles=10**9 // len(calls), kernels=1,
        )  # fmt: skip

    monkeypatch.setattr(CompilerProcess, "__call__", compiled)
    monkeypatch.setattr(plan_module, "check_compiler", lambda _: None)
    return calls


def test_of_tpus_the_compiler_has_the_last_word(tmp_path, compiler):
    """On the best few by arithmetic; what it refuses is out, and so is what needs more than that."""
    found = asked_of(tmp_path, device="v5e:4x4")
    done = [one for one in found.tried if one.compiled]
    assert 1 <= len(done) <= search_module.COMPILED
    assert len(compiler) <= search_module.ASKED + 1  # the first few were all refused; then the smallest was asked
    assert found.best in done
    assert found.best.pace(found.machines) == min(one.pace(found.machines) for one in done)
    assert any(one.fits is False and "20GB" in one.said for one in found.tried)
    assert sum(found.memory().values()) == pytest.approx(found.best.memory)
    assert found.as_json()["verified_by"] == "compiler"
    assert "cycles, the compiler's" in shown(found)


def test_of_meshes_that_are_close_by_arithmetic_the_compiler_decides(tmp_path, compiler, monkeypatch):
    """It finds another mesh faster than the arithmetic does, and is then asked of more on that one."""

    def compiled(process, made, vocabulary):
        roomy = dataclasses.replace(made, compute=dataclasses.replace(made.compute, remat="full"))
        found = stand_in(process, roomy, vocabulary)
        return dataclasses.replace(found, cycles=10**9 // (3 if made.mesh.over(8)["fsdp"] == 8 else 1))

    stand_in = CompilerProcess.__call__
    monkeypatch.setattr(CompilerProcess, "__call__", compiled)
    found = asked_of(tmp_path, size="mini", optimizer="muon", device="v5e:2x4")
    meshes = [tuple(one.recipe.mesh.over(8).values()) for one in found.tried if one.compiled]
    best = tuple(found.best.recipe.mesh.over(8).values())
    assert found.best.recipe.mesh.over(8)["fsdp"] == 8
    assert len(set(meshes)) >= 3
    assert meshes.count(best) > 1
    assert all(meshes.count(other) == 1 for other in meshes if other != best)


def test_a_compiler_that_gives_up_everywhere_is_no_verdict_and_is_asked_three_times(tmp_path, compiler, monkeypatch):
    """Nobody knows then whether it fits; where it gives up once, the others are compiled."""

    def gives_up(process, made, vocabulary):
        compiler.append(made)
        raise CompilerEndedError("Check failed: [a] window")

    stand_in = CompilerProcess.__call__
    monkeypatch.setattr(CompilerProcess, "__call__", gives_up)
    found = asked_of(tmp_path, device="v5e:4x4")
    assert len(compiler) == 3
    assert found.as_json()["fits"] is None
    text = shown(found)
    assert "not known: the compiler gave up: Check failed: [a] window, and at 2 more" in text
    assert "does not fit" not in text
    monkeypatch.setattr(
        CompilerProcess, "__call__", lambda *asked: (gives_up if asked[1] == compiler[0] else stand_in)(*asked)
    )
    assert asked_of(tmp_path, device="v5e:4x4").best.fits


def test_several_slices_are_compiled_as_one(tmp_path, compiler):
    """Whole candidates; what goes between the slices is the compiler's word too, and takes its time."""
    found = asked_of(tmp_path, device="v5e:4x4", slices=2)
    assert all(made in [one.recipe for one in found.tried] for made in compiler)
    assert found.best.far_bytes == {"all-reduce": 2 * 10**9}
    assert found.best.seconds(found.machines)[0] >= 2 * 10**9 / found.machines.chip.far
    assert "DCN, all-reduce" in shown(found)


@pytest.mark.parametrize("page", ["README.md", "README.zh.md", "docs/clusters.md"])
def test_the_pages_plan_what_the_options_know(page):
    """By their own words: llama-7b with its vocabulary and AdamW, and not the default recipe's."""
    text = (Path(__file__).parents[3] / page).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [
        shlex.split(line, comments=True)[2:] for line in re.findall(r"^    \./launch\.sh plan .*", text, re.MULTILINE)
    ]
    assert lines
    for words in lines:
        asked, rest = take(Planning, words)
        made = parse(rest, "plan", (Planning,), "")
        assert asked.machines.chips >= 32
        if "llama-7b" in words:
            assert (made.data.vocabulary, made.optimizer.name) == (32_000, "adamw")
