"""three_kingdoms reads its dummy data, and cleans it."""

from pathlib import Path
from unittest import mock

import tensorflow_datasets as tfds

from data.corpora.corpus import Corpus
from data.corpora.three_kingdoms import three_kingdoms_dataset_builder as corpus

DUMMY = Path(__file__).parent / "dummy_data"


class ThreeKingdomsTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = corpus.Builder
    SPLITS = {"train": 2}

    def setUp(self):
        super().setUp()
        self.enter_context(mock.patch.object(Corpus, "paths", return_value=sorted(DUMMY.glob("*.json"))))

    def test_a_chapter_is_a_heading_and_paragraphs(self):
        """Indents and a web address go; a character that could not be printed is one sign."""
        chapter = "第一回 甲\u3000乙\n\n  \n\t话说。\n\n\t来?吓[犭票]www.example.com ，【舟冓】......"
        self.assertEqual(corpus.clean(chapter), "第一回 甲\u3000乙\n话说。\n来□吓□，□……\n")


if __name__ == "__main__":
    tfds.testing.test_main()
