"""StableHLO: what is written runs without gptjax and is the model; what is not never appears."""

import dataclasses
import json
import subprocess
import sys

import jax
import pytest

from gptjax.cli import main
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
    prompts = [model.encode_prompt(text) for text in ("the quick", "jumps over")]
    code = "import sys; sys.modules['gptjax'] = None; import runpy; greedy = runpy.run_path('run.py')['greedy']; "
    code += f"print([list(greedy(ids, 8)) for ids in {prompts}])"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert said == [list(model.generate(ids, temperature=0, tokens=8)[0][0].ids) for ids in prompts]
    assert said[0] != said[1]
    assert LOADER.read_text().count("\n") <= 50
    assert (folder / "run.py").read_text() == LOADER.read_text()
    assert 0 < manifest["proof"]["logits"]["largest_difference"] < manifest["proof"]["logits"]["allowed_difference"]


def test_the_loader_takes_a_text_and_prints_it_with_what_follows(exported):
    model, folder, _ = exported
    [[sample]] = model.generate("the quick", temperature=0, tokens=4)
    done = subprocess.run(
        [sys.executable, "run.py", "the quick", "4"], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"the quick{sample.text}\n"


def test_the_manifest_says_versions_platforms_and_every_file(exported):
    _, folder, manifest = exported
    assert json.loads((folder / "manifest.json").read_text()) == json.loads(json.dumps(manifest))
    assert (manifest["format"], manifest["jax"], manifest["platforms"]) == (1, jax.__version__, ["cpu", "cuda", "tpu"])
    assert {*manifest["files"], "manifest.json"} == {path.name for path in folder.iterdir()}
    assert "ATTRIBUTION.md" in manifest["files"]
    for name in ("prefill", "step"):
        read = jax.export.deserialize(bytearray((folder / f"{name}.jax_export").read_bytes()))
        assert (read.calling_convention_version, read.platforms) == (manifest["calling_convention"], program.PLATFORMS)


def test_weights_of_another_model_are_seen_and_nothing_appears(exported, tmp_path, monkeypatch):
    """The same folder with a head one percent larger: the loader's scores say so, and the export leaves nothing."""
    model, folder, _ = exported
    programs = {
        name: jax.export.deserialize(bytearray((folder / f"{name}.jax_export").read_bytes()))
        for name in ("prefill", "step")
    }
    whole = stablehlo_export.weights_of(model.params)
    monkeypatch.setattr(stablehlo_export, "exported_programs", lambda *_: programs)
    monkeypatch.setattr(stablehlo_export, "weights_of", lambda _: whole | {"head": whole["head"] * 1.01})
    with pytest.raises(ValueError, match=r"export: scores of up to .* differ by .* nothing was written"):
        export_stablehlo(model, tmp_path / "programs")
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
    "none to be proven on": (random_model, ["tpu"], "add cpu"),
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


def test_the_command_gives_on_what_was_asked_and_refuses_what_does_not_go_together(tmp_path, monkeypatch, capsys):
    """`as` with a .gguf, platforms without `as`, a folder that exists."""
    run, asked = write_run(tmp_path / "run", random_model()), []

    def export(model, folder, platforms):
        asked.append((model.config, folder, platforms))
        logits = {"largest": 4.0, "largest_difference": 1e-6, "tokens": 80}
        return {"platforms": platforms, "parameters": 7, "proof": {"logits": logits}, "left_out": ["topic"]}

    monkeypatch.setattr(stablehlo_export, "export_stablehlo", export)
    command = ["export", str(run), str(tmp_path / "programs"), "--as", "stablehlo"]
    for more in ([], ["--platforms", "cpu", "tpu"]):
        monkeypatch.setattr(sys, "argv", ["gptjax", *command, *more])
        main()
    told = capsys.readouterr().out
    assert "StableHLO for cpu, cuda, tpu" in told
    assert "the output heads topic" in told
    assert [platforms for _, _, platforms in asked] == [("cpu", "cuda", "tpu"), ("cpu", "tpu")]
    with pytest.raises(ValueError, match="exists already"):
        Export(directory="nowhere", folder=str(run), as_="stablehlo").run()
    for wrong in ({"folder": "a.gguf", "as_": "stablehlo"}, {"folder": "a", "platforms": ("cpu",)}):
        with pytest.raises(ValueError, match="as stablehlo"):
            Export(directory=str(run), **wrong)
