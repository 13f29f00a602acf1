"""people_daily reads its dummy data, and cleans it."""

import tensorflow_datasets as tfds

from data.corpora import corpus_testing
from data.corpora.people_daily import people_daily_dataset_builder as corpus


class PeopleDailyTest(corpus_testing.CorpusTest):
    DATASET_CLASS = corpus.Builder
    SPLITS = {"train": 2}

    def test_an_article_begins_at_its_headline(self):
        """Tags and word boundaries are gone, digits are narrow, paragraphs of one article are together."""
        first, second = self.texts()
        self.assertEqual(first, "新年讲话\n江泽民\n1998年涨1.5%。\n他说：“好！”\n")
        self.assertEqual(second, "雪景\n雪停了。\n")


if __name__ == "__main__":
    tfds.testing.test_main()
