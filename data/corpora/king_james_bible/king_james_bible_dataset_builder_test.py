"""king_james_bible reads its dummy data, and cleans it."""

import tensorflow_datasets as tfds

from data.corpora import corpus_testing
from data.corpora.king_james_bible import king_james_bible_dataset_builder as corpus


class KingJamesBibleTest(corpus_testing.CorpusTest):
    DATASET_CLASS = corpus.Builder
    SPLITS = {"train": 3}

    def test_a_chapter_is_its_verses_a_line_each(self):
        """A heading, single spaces, no numbers; the verse that is empty brackets is gone."""
        first, second, last = self.texts()
        self.assertEqual(first, "Ruth 1\n\nNow it came to pass.\nAnd Ruth said,\n")
        self.assertEqual(second, "Ruth 2\n\nAnd Naomi had a kinsman.\n")
        self.assertEqual(last, "3 John 1\n\nPeace be to thee.\n")


if __name__ == "__main__":
    tfds.testing.test_main()
