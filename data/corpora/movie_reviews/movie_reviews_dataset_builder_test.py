"""movie_reviews reads its dummy data, and cleans it."""

import tensorflow_datasets as tfds

from data.corpora import corpus_testing
from data.corpora.movie_reviews import movie_reviews_dataset_builder as corpus


class MovieReviewsTest(corpus_testing.CorpusTest):
    DATASET_CLASS = corpus.Builder
    SPLITS = {"train": 2}

    def test_a_review_is_paragraphs_without_html(self):
        """Tags, entities and Windows punctuation are resolved; the label is a word; the other source is left out."""
        first, second = self.examples()
        self.assertEqual(first, {"text": 'Bad film.\n\nIt "ends" … never.\n', "sentiment": "negative"})
        self.assertEqual(second, {"text": "Good & short.\n", "sentiment": "positive"})


if __name__ == "__main__":
    tfds.testing.test_main()
