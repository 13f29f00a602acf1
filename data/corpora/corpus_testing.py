"""What the tests of all builders share: a corpus reads its dummy data instead of the package."""

from pathlib import Path
from typing import cast
from unittest import mock

import tensorflow_datasets as tfds

from data.corpora.corpus import Corpus
from data.corpora.corpus_builder import CorpusBuilder


class CorpusTest(tfds.testing.DatasetBuilderTestCase):
    """A subclass sets DATASET_CLASS and SPLITS; dummy files have the names that the card's glob ends in."""

    def setUp(self):
        super().setUp()
        dummy = Path(str(self.dummy_data))

        def files(card: Corpus, config: str | None = None) -> list[Path]:
            return sorted(dummy.rglob(Path(card.files.format(config=config)).name))

        self.enter_context(mock.patch.object(Corpus, "paths", files))

    def examples(self, config: str | None = None) -> list[dict[str, str]]:
        """The examples of the dummy data, in order."""
        builder = cast(type[CorpusBuilder], self.DATASET_CLASS)
        return [example for path in builder.card.paths(config) for _, example in builder.examples(path)]

    def texts(self, config: str | None = None) -> list[str]:
        """Their texts."""
        return [example["text"] for example in self.examples(config)]
