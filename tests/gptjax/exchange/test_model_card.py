"""The card of an export: all that the run knows, and nothing else."""

import copy
import dataclasses
import json

import pytest
import yaml

from gptjax.config import ModelConfig
from gptjax.exchange.model_card import model_card
from gptjax.inference.language_model import LanguageModel
from tests.tiny_run import bpe, random_model

SOURCES = {
    "plays": {"licence": "MIT", "language": "en", "warning": "Its speakers\nare made up.",
              "splits": {"train": {"documents": 30, "tokens": 45_000}}},
    "leads/no": {"licence": "MIT", "language": "no", "splits": {"train": {"documents": 7, "tokens": 5_000}}},
}  # fmt: skip
HELD_OUT = {"kind": "final", "step": 10, "source": "plays", "loss": 2.5, "perplexity": 12.18, "bits_per_byte": 1.25,
            "targets": 800, "bytes": 2300}  # fmt: skip
TRAIN = {"kind": "train", "step": 5, "tokens": 10_240, "loss": 2.5}
HEADS = {"head": "mood", "items": 90, "step": 10, "figures": {"after": {"accuracy": 0.8}},
         "interval": {"accuracy": [0.7, 0.9]}}  # fmt: skip


@pytest.fixture
def of_run(tmp_path):
    """A model of step 10 of a run that has some records; each given by its file's name may be another or absent."""

    def made(base=None, **files):
        run = tmp_path / "shakespeare"
        run.mkdir(exist_ok=True)
        known = {
            "recipe": {"base": base, "objectives": {"rows": ["causal_lm=0.9", "order=0.1:0.2", "order=0:0@1"]}},
            "data": {"sources": SOURCES}, "heads": HEADS,
        }  # fmt: skip
        for name, fields in (known | files).items():
            (run / f"{name}.json").write_text(json.dumps(fields))
        half = json.dumps(HELD_OUT)[:40]
        (run / "metrics.jsonl").write_text("\n".join([json.dumps(TRAIN), json.dumps(HELD_OUT), half]))
        model = copy.copy(random_model())
        model.run, model.step, model.credit = run, 10, "by them\n"
        return model

    return made


def front(card):
    return yaml.safe_load(card.split("---")[1])


def test_a_card_has_what_its_run_knows(of_run):
    card = model_card(of_run(), None)
    assert front(card) == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["gptjax"],
        "language": ["en", "no"], "license": "mit",
    }  # fmt: skip
    for known in (
        "# shakespeare\n",
        "34,112 parameters: 2 layers of width 32, 4 heads, a vocabulary of 290 and a context of 64 tokens",
        "step 10 for Hugging Face's `Qwen3ForCausalLM`",
        "It read 20,480 tokens.",
        "Its tasks: causal_lm, order.",
        "| plays | MIT | en | 30 | 45,000 |",
        "| plays | 800 | 2.5000 | 12.18 | 1.2500 |",
        "| mood | 90 | right answers | 80.0% | 70.0% to 90.0% |",
        "- plays: Its speakers are made up.",
        "beside continuing a text",
        "ATTRIBUTION.md",
        "gptjax export . model.gguf --dtype f16",
    ):
        assert known in card, known


def test_a_card_names_nothing_that_is_not_known(of_run):
    """Of no run; of one whose files are gone or damaged; figures of another step, or of other weights."""
    plain = model_card(random_model(), None)
    assert front(plain) == {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["gptjax"]}
    model = of_run(data={}, recipe={}, heads={"step": 10})
    (model.run / "metrics.jsonl").write_text('{"kind": "final", "step": "ten"}\n[3]\n')
    (model.run / "heads.json").write_text("{")
    model.credit = None
    for card in (plain, model_card(model, None)):
        for unknown in ("icence", "language:", "learnt from", "tasks", "ATTRIBUTION", "perplexity", "interval"):
            assert unknown not in card, unknown
    for change in ({"step": 11}, {"weights": "ema"}):
        other = of_run()
        vars(other).update(change)
        card = model_card(other, None)
        assert "12.18" not in card
        assert "80.0%" not in card
        assert f"It read {2048 * other.step:,} tokens." in card


def test_texts_of_several_licences_or_of_an_unknown_base_give_the_model_none_of_them(of_run):
    several = {"sources": SOURCES | {"more": {"licence": "PSF-2.0", "language": "en"}}}
    for model in (of_run(data=several), of_run(base="/home/me/smollm2.gguf")):
        found = front(model_card(model, None))
        assert (found["license"], found["license_link"]) == ("other", "ATTRIBUTION.md")
    assert "It is `smollm2.gguf`, trained further." in model_card(model, None)
    lost = model_card(of_run(recipe={}), None)  # nobody knows what it began with
    assert front(lost)["license"] == "other"
    assert "has not learnt" not in lost
    assert "/home/me" not in model_card(model, None)


def test_llama_cpp_is_named_where_it_can_run_the_model_and_else_why_not():
    model = random_model()
    bent = LanguageModel(dataclasses.replace(model.config, window=9), bpe(), model.params)
    card = model_card(bent, None)
    assert "model.window=9 is not written to GGUF; a folder can have it" in card
    assert "llama-cli" not in card
    assert "the 9 nearest alone" in card
    wide = ModelConfig(**{**dataclasses.asdict(model.config), "F": 64})
    assert "--dtype q8_0" in model_card(LanguageModel(wide, bpe(), model.params), None)
