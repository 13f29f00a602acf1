"""chatterbot reads its dummy data, and cleans it."""

import tensorflow_datasets as tfds

from data.corpora import corpus_testing
from data.corpora.chatterbot import chatterbot_dataset_builder as corpus


class ChatterbotTest(corpus_testing.CorpusTest):
    DATASET_CLASS = corpus.Builder
    SPLITS = {"train": 4}
    BUILDER_CONFIG_NAMES_TO_TEST = ["english"]

    def test_several_answers_are_told_apart(self):
        """A conversation stays whole; elsewhere each answer is its own example, once; code and broken lines are out."""
        conversation, *answers = self.texts()
        self.assertEqual(conversation, "A: Hello\nB: Hi\nA: How are you?\n")
        self.assertEqual(
            answers, ["A: Are you sad?\nB: No.\n", "A: Are you sad?\nB: Seldom.\n", "A: A number?\nB: 42\n"]
        )


if __name__ == "__main__":
    tfds.testing.test_main()
