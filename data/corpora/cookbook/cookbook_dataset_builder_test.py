"""cookbook reads its dummy data, and cleans it."""

import tensorflow_datasets as tfds

from data.corpora import corpus_testing
from data.corpora.cookbook import cookbook_dataset_builder as corpus


class CookbookTest(corpus_testing.CorpusTest):
    DATASET_CLASS = corpus.Builder
    SPLITS = {"train": 1}

    def test_a_recipe_is_two_lists_under_a_title(self):
        """Ingredients with dashes, steps with numbers, one line each, degrees as degrees."""
        [text] = self.texts("en")
        self.assertEqual(text, "Tea\n\n- 1 cup water\n- tea\n\n1. Heat to 95°C.\n2. Pour over.\n")


if __name__ == "__main__":
    tfds.testing.test_main()
