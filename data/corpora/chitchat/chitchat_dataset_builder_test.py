"""chitchat reads its dummy data, and cleans it."""

import tensorflow_datasets as tfds

from data.corpora import corpus_testing
from data.corpora.chitchat import chitchat_dataset_builder as corpus


class ChitchatTest(corpus_testing.CorpusTest):
    DATASET_CLASS = corpus.Builder
    SPLITS = {"train": 2}

    def test_messages_of_one_turn_are_one_line(self):
        """Two speakers alternate; a pause between messages is not a turn; short conversations are left out."""
        self.assertEqual(self.texts()[0], "A: Hello How are you?\nB: Fine.\nA: Good to hear\nB: Bye\n")


if __name__ == "__main__":
    tfds.testing.test_main()
