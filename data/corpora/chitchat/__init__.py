"""Conversations between two people who have just met, in English."""

from data.corpora.corpus import Corpus

CORPUS = Corpus(
    package="chitchat-dataset",
    version="0.9.0",
    builder_version="1.0.0",
    files="chitchat_dataset/dataset.json",
    languages={None: "en"},
    domain="dialogue",
    homepage="https://github.com/BYU-PCCL/chitchat-dataset",
    licence="MIT",
    attribution_required=True,
    attribution=(
        "Chit-Chat dataset (chitchat-dataset 0.9.0), copyright (c) 2019 Perception, Control and Cognition Lab, "
        "MIT licence."
    ),
)
