"""chitchat reads its dummy data, and cleans it."""

from pathlib import Path
from unittest import mock

import tensorflow_datasets as tfds

from data.corpora.chitchat import chitchat_dataset_builder as corpus
from data.corpora.corpus import Corpus

DUMMY = Path(__file__).parent / "dummy_data"


class ChitchatTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = corpus.Builder
    SPLITS = {"train": 2}

    def setUp(self):
        super().setUp()
        self.enter_context(mock.patch.object(Corpus, "paths", return_value=sorted(DUMMY.glob("*.json"))))

    def test_messages_of_one_turn_are_one_line(self):
        """Two speakers alternate; a pause between messages is not a turn; short conversations are left out."""
        texts = [
            example["text"] for _, example in corpus.Builder._generate_examples(self.builder, [DUMMY / "dataset.json"])
        ]
        self.assertEqual(texts[0], "A: Hello How are you?\nB: Fine.\nA: Good to hear\nB: Bye\n")


if __name__ == "__main__":
    tfds.testing.test_main()
