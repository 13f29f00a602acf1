"""What every builder of ours shares: the card says what is read and what an example holds; a builder reads one file."""

import abc
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.writer import ExampleWriter

from data.corpora.corpus import Corpus


class CorpusBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A builder is `class Builder(CorpusBuilder, card=CORPUS)` with the one method `examples`."""

    card: Corpus
    distributed = False  # True = Apache Beam reads the files, on all machines that it has

    def __init_subclass__(cls, *, card: Corpus, **kwargs):
        cls.card = card
        cls.VERSION = tfds.core.Version(card.builder_version)
        cls.BUILDER_CONFIGS = [
            tfds.core.BuilderConfig(name=name, description=f"Text in the language `{language}`.")
            for name, language in card.languages.items()
            if name is not None
        ]
        super().__init_subclass__(**kwargs)

    @staticmethod
    @abc.abstractmethod
    def examples(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
        """(id, {"text": ..., and each label of the card}) of one data file, in order.

        An id is unique in the corpus. What comes depends on the file alone, so that files may be read side by side.
        """

    def _info(self) -> tfds.core.DatasetInfo:
        names = ("id", "text", *self.card.labels)
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({name: tfds.features.Text() for name in names}),
            homepage=self.card.homepage,
            license=self.card.licence,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        config = self.builder_config and self.builder_config.name
        paths = self.card.paths(config)
        return {"train": self._distributed_examples(paths) if self.distributed else self._generate_examples(paths)}

    def _generate_examples(self, paths: list[Path]) -> Iterator[tuple[str, dict[str, str]]]:
        for path in paths:
            for id, example in self.examples(path):
                yield id, {"id": id, **example}

    def _distributed_examples(self, paths: list[Path]):
        """The same examples in the same order, read by Apache Beam: TFDS then sorts them by these numbers."""
        import apache_beam as beam  # pyright: ignore[reportMissingImports]

        files = beam.Create(list(enumerate(paths)))
        return files | beam.Reshuffle() | beam.FlatMap(functools.partial(_numbered, self.examples))

    def _example_writer(self) -> ExampleWriter:
        assert self.info.file_format is not None  # TFDS has set it by now
        return _SameBytes(self.info.file_format)


class _SameBytes(ExampleWriter):
    """Writes the features of an example in one order; TFDS leaves it to protobuf, where each process has its own."""

    def write(self, path, examples):
        return super().write(path, ((key, _ordered(example)) for key, example in examples))


def _ordered(example: bytes) -> bytes:
    return tf.train.Example.FromString(example).SerializeToString(deterministic=True)


def _numbered(examples: Callable[[Path], Iterator], file: tuple[int, Path]) -> Iterator[tuple[int, dict[str, str]]]:
    number, path = file
    for n, (id, example) in enumerate(examples(path)):
        yield number << 32 | n, {"id": id, **example}
