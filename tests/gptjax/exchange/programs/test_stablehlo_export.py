"""StableHLO: what is written runs without gptjax and is the model; what is not never appears."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from gptjax.command.export_verb import Export
from gptjax.config import ClassHead, Lora
from gptjax.exchange.programs import program, stablehlo_export
from gptjax.exchange.programs.stablehlo_export import LOADER, export_stablehlo
from gptjax.inference.language_model import LanguageModel
from tests.tiny_run import random_model, write_run


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model whose attention is bent and whose layers look back 9 tokens, which no other format can say."""
    source = random_model()
    config = dataclasses.replace(source.config, window=9, logit_cap=3.0, class_heads=())
    model = LanguageModel(config, source.tokenizer, source.params)
    model.credit = "by them\n"
    folder = tmp_path_factory.mktemp("exports") / "programs"
    return model, folder, export_stablehlo(model, folder)


def test_what_was_written_runs_without_gptjax_and_goes_on_as_the_model(exported):
    """In a process of its own, by the loader of at most 50 lines; the same greedy tokens, and another text's others."""
    model, folder, manifest = exported
    said = {}
    for prompt in ("the quick", "jumps over"):
        [[sample]] = model.generate(prompt, temperature=0, tokens=8)
        code = "import sys; sys.modules['gptjax'] = None; import runpy; "
        code += f"print(list(runpy.run_path('run.py')['greedy']({model.encode_prompt(prompt)}, 8)))"
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
        said[prompt] = json.loads(done.stdout)
        assert said[prompt] == list(sample.ids)
    assert len({tuple(ids) for ids in said.values()}) == 2
    assert LOADER.read_text().count("\n") <= 50
    assert (folder / "run.py").read_text() == LOADER.read_text()
    assert 0 < manifest["proof"]["logits"]["largest_difference"] < manifest["proof"]["logits"]["allowed_difference"]


def test_the_manifest_says_versions_platforms_and_every_file(exported):
    _, folder, manifest = exported
    assert json.loads((folder / "manifest.json").read_text()) == json.loads(json.dumps(manifest))
    assert (manifest["format"], manifest["jax"], manifest["platforms"]) == (1, jax.__version__, ["cpu", "cuda", "tpu"])
    assert {*manifest["files"], "manifest.json"} == {path.name for path in folder.iterdir()}
    assert "ATTRIBUTION.md" in manifest["files"]
    for name in ("prefill", "step"):
        read = jax.export.deserialize(bytearray((folder / f"{name}.jax_export").read_bytes()))
        assert (read.calling_convention_version, read.platforms) == (manifest["calling_convention"], program.PLATFORMS)


def test_programs_that_compute_something_else_never_appear(tmp_path, monkeypatch):
    """Weights that were spoilt on the way, and a loader that breaks: named, and the folder is as empty as before."""
    model, whole = random_model(), stablehlo_export.weights_of
    monkeypatch.setattr(
        stablehlo_export, "weights_of", lambda params: whole(params) | {"head": whole(params)["head"] * 1.01}
    )
    with pytest.raises(ValueError, match=r"scores of up to .* differ by .* nothing was written"):
        export_stablehlo(model, tmp_path / "programs", ["cpu"])
    assert [*tmp_path.iterdir()] == []


def with_config(**changes) -> LanguageModel:
    model = random_model()
    return LanguageModel(dataclasses.replace(model.config, **changes), model.tokenizer, model.params)


def reading_both_ways() -> LanguageModel:
    model = random_model()
    habits = dataclasses.replace(model.generation_config, encodes_prompt=True)
    return LanguageModel(model.config, model.tokenizer, model.params, generation_config=habits)


REFUSED = {
    "an unknown platform": (random_model, ["cpu", "cuba"], "platforms: 'cuba'; did you mean 'cuda'"),
    "no platform": (random_model, [], "none given"),
    "adapters": (lambda: with_config(lora=Lora()), ["cpu"], "gptjax.load merges them"),
    "a prefix-LM": (reading_both_ways, ["cpu"], "from both sides"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_programs_cannot_say_is_refused_before_anything_is_lowered(tmp_path, monkeypatch, case):
    make, platforms, said = REFUSED[case]
    monkeypatch.setattr(stablehlo_export, "exported_programs", lambda *_: pytest.fail("lowered"))
    with pytest.raises(ValueError, match=said):
        export_stablehlo(make(), tmp_path / "programs", platforms)
    assert [*tmp_path.iterdir()] == []


def test_heads_are_named_as_left_out():
    with_head = with_config(class_heads=(ClassHead(name="topic", classes=("law", "tea")),))
    assert stablehlo_export.description(with_head)["left_out"] == ["topic"]
    assert stablehlo_export.description(random_model())["left_out"] == []


def test_the_command_writes_programs_and_refuses_what_does_not_go_together(tmp_path, capsys):
    """`as` with a .gguf, platforms without `as`, a folder that exists."""
    run, target = write_run(tmp_path / "run", random_model()), tmp_path / "programs"
    Export(directory=str(run), folder=str(target), as_="stablehlo", platforms=("cpu",)).run()
    assert "StableHLO for cpu" in capsys.readouterr().out
    with pytest.raises(ValueError, match="exists already"):
        Export(directory=str(run), folder=str(target), as_="stablehlo").run()
    for wrong in ({"folder": "a.gguf", "as_": "stablehlo"}, {"folder": "a", "platforms": ("cpu",)}):
        with pytest.raises(ValueError, match="as stablehlo"):
            Export(directory=str(run), **wrong)
    assert {path.name for path in Path(tmp_path).iterdir()} == {"run", "programs"}
