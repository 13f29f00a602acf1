"""bbc_news reads its dummy data, and cleans it."""

import tensorflow_datasets as tfds

from data.corpora import corpus_testing
from data.corpora.bbc_news import bbc_news_dataset_builder as corpus


class BbcNewsTest(corpus_testing.CorpusTest):
    DATASET_CLASS = corpus.Builder
    SPLITS = {"train": 2}

    def test_an_article_is_headline_and_paragraphs(self):
        """Single spaces, whatever the encoding of the file; the folder is the label."""
        first, second = self.examples()
        self.assertEqual(first, {"text": 'Sales up\n\nSales rose to £5.\n\nThey "may" fall.\n', "category": "business"})
        self.assertEqual(second, {"text": "Striker sold\n\nFor £9m.\n", "category": "sports"})


if __name__ == "__main__":
    tfds.testing.test_main()
