"""A run from its text to its report, stopped and continued."""

import dataclasses
import io
import json
import re

import jax
import numpy as np
import pytest
from rich.console import Console

import gptjax
from gptjax.config import Architecture
from gptjax.runs.manifest import steps
from tests.tiny_recipe import recipe, records, steps_alone, write_text
from tests.tiny_text import sentences
from train.pretrain import pretrain
from train.recipe import BatchSpec, CheckpointSpec, MeshSpec, OptimizerSpec, StopSpec, ValidationSpec
from train.report.finish import _results
from train.report.views import views_table
from train.run import _own
from train.supervision.exits import BadNumbersError
from train.supervision.lease import FINISHED, Lease


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("pretrain"))


@pytest.fixture(scope="module")
def whole(text):
    """A run that was never interrupted, and what it printed."""
    console = Console(record=True, width=200)
    return pretrain(recipe(text, "whole"), console), console.export_text()


def test_a_run_directory_holds_all_that_its_readers_need(whole):
    run, printed = whole
    for name in ("model.json", "tokenizer.json", "recipe.json", "data.json", "environment.json", "xz.json",
                 "ATTRIBUTION.md", "metrics.jsonl", "samples.jsonl", "report.html"):  # fmt: skip
        assert (run / name).stat().st_size > 0, name
    assert list((run / "tensorboard").iterdir())
    assert steps(run) == [6, 10, 12]  # the last three; the best is the last
    said = re.search(r"first step finished (\S+) s after the start: (.*)", printed)
    assert [stage.split(" ")[:-1] for stage in said[2].split(", ")] == [
        ["imports"],
        ["text"],
        ["first", "state"],
        ["peak"],
        ["first", "batch"],
        ["compiling"],
        ["first", "step"],
    ]
    assert "xz after the training text" in printed
    assert "a save takes" in printed
    assert "ended at step 12: its last step, 12" in printed
    assert re.search(
        r"\(trained for [\w ]+ s; this start, with all that followed the last step, took [\w ]+ s\)", printed
    )
    assert not list((run / "lease").glob("*.json"))
    assert len((run / "samples.jsonl").read_text().splitlines()) == 2 * 2


def test_it_learns_and_says_so_for_every_source(whole):
    run, _ = whole
    validation = records(run, "validation")
    assert [record["step"] for record in validation] == [6, 6, 12, 12]
    assert len({record["source"] for record in validation}) == 2
    first, last = validation[0], validation[2]
    assert last["loss"] < first["loss"] < np.log(400)
    assert last["bits_per_byte"] == pytest.approx(last["loss"] * last["targets"] / np.log(2) / last["bytes"])
    assert records(run, "train")[-1]["tokens"] == 12 * 8 * 32


def test_names_of_sources_are_whole_in_every_table(tmp_path):
    """They may differ in their ends alone, and be longer than a terminal is wide."""
    names = [f"files:/somewhere/that/is/long/{'folder/' * 8}{end}.txt" for end in ("one", "two")]
    lines = [{"kind": "final", "step": 1, "source": name, "loss": 1.0, "bits_per_byte": 1.0} for name in names]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    xz = {name: {"alone": 2.0, "after_training_text": 2.0} for name in names}
    (tmp_path / "xz.json").write_text(json.dumps(xz))
    views = views_table({name: {"causal": 1.0, "bidirectional": 1.0, "tokens": 9} for name in names})
    for table in (_results(tmp_path), views):
        console = Console(width=80, file=io.StringIO(), record=True)
        console.print(table)
        shown = "".join(line.split("│")[1].strip() for line in console.export_text().splitlines() if "│" in line)
        assert all(name in shown for name in names)


def test_the_python_door_opens_on_the_run(whole):
    model = gptjax.load(whole[0])
    ((sample,),) = model.generate("the quick", tokens=5)
    assert len(sample.ids) <= 5


def test_stopped_and_continued_is_bit_for_bit_the_run_that_was_not(whole, text):
    """Seven steps and five more equal twelve: parameters and the records of the steps after the break."""
    steps_alone(recipe(text, "parts", stop=StopSpec(step=7)))
    run = steps_alone(recipe(text, "parts"))
    straight, broken = gptjax.load(whole[0]).params, gptjax.load(run).params
    for a, b in zip(jax.tree.leaves(straight), jax.tree.leaves(broken), strict=True):
        np.testing.assert_array_equal(a, b)
    same = ("step", "source", "loss", "bits_per_byte")
    ends = [
        [{key: record[key] for key in same} for record in records(path, "validation")[-2:]] for path in (whole[0], run)
    ]
    assert ends[0] == ends[1]
    earlier = gptjax.load(whole[0], step=10).params  # and another seed's differ: test_faults.py
    assert not np.array_equal(earlier["embedding"], straight["embedding"])


@pytest.mark.fault(11, 12)
def test_a_run_of_another_recipe_is_refused_field_by_field_and_left_as_it_was(whole, text):
    before = {path: path.stat().st_mtime_ns for path in whole[0].rglob("*")}
    changed = recipe(
        text, "whole", model=Architecture(T=32, D=64, L=2, N=4, K=2, head_width=8, F=48, dropout=0.1), seed=4
    )
    with pytest.raises(ValueError, match=r"another recipe:\n  model.D: 32 -> 64\n  seed: 0 -> 4\nstart a new run"):
        pretrain(changed, Console(quiet=True))
    assert {path: path.stat().st_mtime_ns for path in whole[0].rglob("*")} == before


@pytest.mark.fault(7)
def test_a_folder_that_is_no_run_is_not_written_into(text):
    (text / "mine").mkdir()
    (text / "mine" / "diary.txt").write_text("dear diary")
    with pytest.raises(ValueError, match="not empty and not a run of gptjax"):
        pretrain(recipe(text, "mine"), Console(quiet=True))
    assert [path.name for path in (text / "mine").iterdir()] == ["diary.txt"]


@pytest.mark.fault(6, 28)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mesh": MeshSpec(data=3)}, "mesh data=3 x fsdp=1 x tensor=1 = 3, devices = 8"),
        ({"batch": BatchSpec(rows=6)}, "rows of a micro-batch = 6 does not divide over mesh data x fsdp = 4"),
        ({"mesh": MeshSpec(tensor=8)}, "query heads = 4 does not divide over mesh tensor = 8"),
        ({"model": Architecture(T=32, D=40_000, L=900, N=4, K=4, head_width=8, F=48)}, "checkpoints of .* need .* GB"),
    ],
)
def test_what_cannot_fit_is_refused_before_anything_slow(text, changes, message):
    with pytest.raises(ValueError, match=message):
        pretrain(recipe(text, "never", **changes), Console(quiet=True))
    assert not (text / "never").exists()


@pytest.mark.slow
@pytest.mark.fault(31)
def test_numbers_that_are_none_stop_the_run_before_they_are_saved(text):
    """At a rate of 1e30 the first update ruins the parameters; whatever was saved before is finite."""
    ruinous = OptimizerSpec(learning_rate=1e30, warmup=0, clip=1e30)
    with pytest.raises(BadNumbersError, match=r"5 steps in a row .stop.skipped.; lower optimizer.learning_rate"):
        pretrain(recipe(text, "burst", optimizer=ruinous, checkpoint=CheckpointSpec(every=1)), Console(quiet=True))
    assert "<h2>Training</h2>" in (text / "burst" / "report.html").read_text()  # since when, its curves say
    assert steps(text / "burst")
    for step in steps(text / "burst"):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gptjax.load(text / "burst", step=step).params))


@pytest.mark.parametrize(("phase", "counts"), [("final", True), (FINISHED, False)])
def test_a_run_that_dies_once_it_is_trained_is_not_counted_as_one_that_fails(tmp_path, phase, counts):
    """Killed in its report, as often as one likes; killed before, it is."""
    dead = dataclasses.replace(Lease(tmp_path)._sign, pid=2**22 + 1, phase=phase)
    (tmp_path / "lease").mkdir()
    (tmp_path / "lease" / "0.json").write_text(json.dumps(dataclasses.asdict(dead)))
    lease = Lease(tmp_path)
    _own(tmp_path, lease, Console(quiet=True), died=False)
    lease.release()
    assert (tmp_path / "failures.json").exists() == counts


@pytest.mark.fault(3, 4)
def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_it_used(whole, text):
    steps_alone(recipe(text, "damaged", stop=StopSpec(step=10)))
    folder = text / "damaged" / "checkpoints"
    victim = max((folder / "10" / "params").rglob("*"), key=lambda path: path.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    console = Console(record=True, width=400)
    run = steps_alone(recipe(text, "damaged"), console)
    printed = console.export_text()
    assert f"step 10: {victim.relative_to(folder / '10')}: sha256" in printed
    assert "continuing from step 6" in printed  # the best one, saved when it was measured
    assert (folder / "10.damaged").is_dir()
    straight, repaired = gptjax.load(whole[0]).params, gptjax.load(run).params
    np.testing.assert_array_equal(repaired["embedding"], straight["embedding"])


@pytest.mark.fault(3, 17)
def test_a_run_whose_checkpoints_are_all_damaged_is_never_started_anew_in_silence(text):
    """The second start, too, finds no step to go on from, and says so."""
    steps_alone(recipe(text, "ruined", stop=StopSpec(step=2)))
    for manifest in (text / "ruined" / "checkpoints").glob("*/manifest.json"):
        manifest.write_text("{")
    for _ in range(2):
        with pytest.raises(ValueError, match="every checkpoint is damaged; restore one"):
            pretrain(recipe(text, "ruined"), Console(quiet=True))


@pytest.mark.fault(12)
def test_changed_text_is_refused_and_a_touched_file_is_not(text):
    """The comparison is of what was read, not of dates."""
    (text / "diary.txt").write_text("".join(sentences(300, seed=5)))
    settings = {"data": dataclasses.replace(recipe(text, "x").data, sources=(f"files:{text / 'diary.txt'}",))}
    steps_alone(recipe(text, "diary", **settings, stop=StopSpec(step=2)))
    (text / "diary.txt").touch()
    steps_alone(recipe(text, "diary", **settings, stop=StopSpec(step=3)))
    words = (text / "diary.txt").read_text().split(" ")
    (text / "diary.txt").write_text(" ".join(words[::-1]))
    with pytest.raises(ValueError, match="was trained with another text"):
        pretrain(recipe(text, "diary", **settings, stop=StopSpec(step=4)), Console(quiet=True))


@pytest.mark.slow
def test_a_model_learns_where_texts_end(tmp_path):
    """Trap 29: trained on texts of six letters, its greedy ones end after six, by one EOS."""
    draw = np.random.default_rng(0)
    texts = ["".join(draw.choice(list("abcdefgh"), 6)) for _ in range(600)]
    (tmp_path / "six.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    base = recipe(
        tmp_path,
        "six",
        steps=200,
        validation=ValidationSpec(every=200, rows=4),
        batch=BatchSpec(rows=32),
        mesh=MeshSpec(data=8),
    )
    data = dataclasses.replace(base.data, sources=(f"files:{tmp_path / 'six.jsonl'}",), validation="tail 0.1")
    model = gptjax.load(steps_alone(dataclasses.replace(base, data=data, samples=0)))
    prompts = ["a", "hb", "cde"]
    for prompt, (sample,) in zip(prompts, model.generate(prompts, temperature=0, tokens=20), strict=True):
        assert len(prompt + sample.text) == 6
        assert sample.ended == "eos"
        assert sample.ids.count(model.tokenizer.eos) == 1
