"""The builder that all corpora share: records whose bytes depend on the text alone."""

import tensorflow as tf

from data.corpora import corpus_builder


def test_features_stand_in_one_order_whatever_the_process():
    """By name, so that two machines write the same record; protobuf alone orders them anew in each process."""
    names = ["text", "topic", "id", "title", "sentiment"]
    features = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[name.encode()])) for name in names}
    record = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
    ordered = corpus_builder._ordered(record)
    places = [ordered.index(b"\n" + bytes([len(name)]) + name.encode()) for name in sorted(names)]
    assert places == sorted(places)
    assert tf.train.Example.FromString(ordered) == tf.train.Example.FromString(record)


def test_numbered_examples_are_in_the_order_of_files():
    """Later files have larger numbers, however many examples an earlier one has; ids become a feature."""

    def examples(path):
        return ((f"{path}{n}", {"text": str(n)}) for n in range(1000))

    numbers = [number for file in enumerate("ab") for number, _ in corpus_builder._numbered(examples, file)]
    assert numbers == sorted(set(numbers))
    assert next(corpus_builder._numbered(examples, (1, "b")))[1] == {"id": "b0", "text": "0"}
