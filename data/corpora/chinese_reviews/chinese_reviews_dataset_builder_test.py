"""chinese_reviews reads its dummy data, and cleans it."""

import tensorflow_datasets as tfds

from data.corpora import corpus_testing
from data.corpora.chinese_reviews import chinese_reviews_dataset_builder as corpus


class ChineseReviewsTest(corpus_testing.CorpusTest):
    DATASET_CLASS = corpus.Builder
    SPLITS = {"train": 3}

    def test_a_review_comes_once_with_the_label_of_its_file(self):
        """Repetitions, empty lines and characters of a private font are gone."""
        self.assertEqual(
            self.examples(),
            [
                {"text": "房间小\n", "sentiment": "negative"},
                {"text": "太慢 了\n", "sentiment": "negative"},
                {"text": "很好！\n", "sentiment": "positive"},
            ],
        )


if __name__ == "__main__":
    tfds.testing.test_main()
