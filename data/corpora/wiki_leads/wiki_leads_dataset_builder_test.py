"""wiki_leads reads its dummy data, and cleans it."""

import tensorflow_datasets as tfds

from data.corpora import corpus_testing
from data.corpora.wiki_leads import wiki_leads_dataset_builder as corpus


class WikiLeadsTest(corpus_testing.CorpusTest):
    DATASET_CLASS = corpus.Builder
    SPLITS = {"train": 1}

    def test_an_article_is_title_and_lead_in_plain_spaces(self):
        """Odd spaces, footnote marks and emptied brackets go; French spacing and a paragraph's end stay."""
        self.assertEqual(
            corpus.clean("Leeds ( , local)\u2060 is\u00a0a  city.\nBig."), "Leeds (local) is a city.\nBig."
        )
        self.assertEqual(corpus.clean("El Duina ,\u00a0[1] es un río ()."), "El Duina, es un río.")
        self.assertEqual(corpus.clean("Ça\u00a0: oui ; non\u00a0!"), "Ça : oui ; non !")


if __name__ == "__main__":
    tfds.testing.test_main()
