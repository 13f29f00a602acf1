"""three_kingdoms reads its dummy data, and cleans it."""

import tensorflow_datasets as tfds

from data.corpora import corpus_testing
from data.corpora.three_kingdoms import three_kingdoms_dataset_builder as corpus


class ThreeKingdomsTest(corpus_testing.CorpusTest):
    DATASET_CLASS = corpus.Builder
    SPLITS = {"train": 2}

    def test_a_chapter_is_a_heading_and_paragraphs(self):
        """Indents and a web address go; a character that could not be printed is one sign."""
        chapter = "第一回 甲\u3000乙\n\n  \n\t话说。\n\n\t来?吓[犭票]www.example.com ，【舟冓】......"
        self.assertEqual(corpus.clean(chapter), "第一回 甲\u3000乙\n话说。\n来□吓□，□……\n")


if __name__ == "__main__":
    tfds.testing.test_main()
