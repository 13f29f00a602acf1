"""crosswoz reads its dummy data, and cleans it."""

import re

import tensorflow_datasets as tfds

from data.corpora import corpus_testing
from data.corpora.crosswoz import crosswoz_dataset_builder as corpus


class CrosswozTest(corpus_testing.CorpusTest):
    DATASET_CLASS = corpus.Builder
    SPLITS = {"train": 5}

    def test_what_is_asked_is_told_once_each(self):
        """Answers with values of real places are out; so are those that also ask, and taxis."""
        hotel, *sights, free, facilities = self.texts()
        hotels, names = corpus.NAMES["酒店"], corpus.NAMES["景点"]
        found = re.fullmatch(r"A: (\w+)的电话是多少？\nB: 电话是010-0\d{7}。\n", hotel)
        self.assertIn(found and found[1], hotels)
        found = re.fullmatch(r"A: 周边有什么景点？\nB: 有(\w+)、(\w+)。\n", sights[0])
        self.assertEqual(found and [name in names for name in found.groups()], [True, True])
        self.assertEqual(sights[1:], ["A: 周边呢？\nB: 没有。\n"])
        self.assertRegex(free, rf"^A: 有没有免费的景点？\nB: ({'|'.join(names)})。\n$")
        ((one, other, *told),) = re.findall(r"^A: 有(\w+)和(\w+)吗？\nB: 有(\w+)，也有(\w+)。\n$", facilities)
        self.assertEqual(told, [other, one])

    def test_a_question_of_many_has_values_that_agree_with_its_answer(self):
        """Each time the same, and not the same in all questions."""
        blank = "[Request+酒店+酒店设施]"
        pairs = [
            [
                corpus._filled(text, chance, asks=asks)
                for text, asks in ((blank, True), ("[Inform+酒店+酒店设施+是]", False))
            ]
            for chance in range(20)
        ]
        self.assertTrue(all(asked == told for asked, told in pairs))
        self.assertGreater(len({asked for asked, _ in pairs}), 5)


if __name__ == "__main__":
    tfds.testing.test_main()
