"""Questions put to a chatbot, and its answers, in eleven languages."""

from data.corpora.corpus import Corpus

CORPUS = Corpus(
    package="chatterbot-corpus",
    version="1.3.3",
    builder_version="1.0.0",
    files="chatterbot_corpus/data/{config}/*.yml",
    languages={  # those with 250 conversations or more
        "chinese": "zh",
        "dutch": "nl",
        "english": "en",
        "italian": "it",
        "japanese": "ja",
        "korean": "ko",
        "persian": "fa",
        "portuguese": "pt",
        "spanish": "es",
        "traditionalchinese": "zh-Hant",
        "ukrainian": "uk",
    },
    domain="dialogue",
    homepage="https://github.com/gunthercox/chatterbot-corpus",
    licence="BSD-3-Clause",
    attribution_required=True,
    attribution=(
        "chatterbot-corpus 1.3.3, copyright (c) Gunther Cox and contributors, BSD 3-clause licence; "
        "answers to one question told apart, code left out."
    ),
)
