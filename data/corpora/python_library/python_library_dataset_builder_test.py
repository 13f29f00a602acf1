"""python_library reads its dummy data, and cleans it."""

import tensorflow_datasets as tfds

from data.corpora import corpus_testing
from data.corpora.python_library import python_library_dataset_builder as corpus


class PythonLibraryTest(corpus_testing.CorpusTest):
    DATASET_CLASS = corpus.Builder
    SPLITS = {"train": 3}

    def test_a_module_is_its_source_and_a_topic_its_prose(self):
        """An empty module is none; the topics' dictionary is gone, each of them is an example."""
        module, first, second = self.texts()
        self.assertEqual(module, '"""Says café."""\n\n\ndef f():\n    return 1\n')
        self.assertEqual([first, second], ['The "with" statement\n********\n\nIt wraps.\n', 'The "yield"\n'])


if __name__ == "__main__":
    tfds.testing.test_main()
