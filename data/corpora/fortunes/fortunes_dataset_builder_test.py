"""fortunes reads its dummy data, and cleans it."""

import tensorflow_datasets as tfds

from data.corpora import corpus_testing
from data.corpora.fortunes import fortunes_dataset_builder as corpus


class FortunesTest(corpus_testing.CorpusTest):
    DATASET_CLASS = corpus.Builder
    SPLITS = {"train": 2}

    def test_a_fortune_is_what_a_terminal_shows(self):
        """Overstrikes become letters, bells and the file's own entry go; line breaks, tabs and signatures stay."""
        self.assertEqual(self.texts(), ["It *is* 5% X.\n\n\t\t-- René\n", "Ring  the bellê 9%\n"])


if __name__ == "__main__":
    tfds.testing.test_main()
