"""chitchat: one example a conversation."""

import json
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from data.corpora.chitchat import CORPUS
from gptjax.tokenizer import dialogue_text

FEWEST_TURNS = 4  # nearly half of the conversations ended after one


class Builder(tfds.core.GeneratorBasedBuilder):
    """Conversations of at least four turns, as lines of `A:` and `B:`."""

    VERSION = tfds.core.Version(CORPUS.builder_version)
    RELEASE_NOTES = {"1.0.0": "First release."}

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({"id": tfds.features.Text(), "text": tfds.features.Text()}),
            homepage="https://github.com/BYU-PCCL/chitchat-dataset",
            license=CORPUS.licence,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        return {"train": self._generate_examples(CORPUS.paths())}

    def _generate_examples(self, paths: list[Path]) -> Iterator[tuple[str, dict]]:
        for path in paths:
            for id, conversation in json.loads(path.read_text(encoding="utf-8")).items():
                turns = [_turn(messages) for messages in conversation["messages"]]
                turns = [turn for turn in turns if turn]
                if len(turns) >= FEWEST_TURNS:
                    yield id, {"id": id, "text": dialogue_text(turns)}


def _turn(messages: list[dict]) -> str:
    """What one speaker sent before the other answered, as one line."""
    return " ".join(text for message in messages if (text := message["text"].strip()))
