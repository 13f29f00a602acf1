"""Questions of travellers to Beijing and their answers, in Chinese, with made-up names and numbers."""

from data.corpora.corpus import Corpus

CORPUS = Corpus(
    package="convlab",
    version="3.0.0.dev20221130",
    builder_version="1.0.0",
    files="convlab/nlg/template/crosswoz/auto_user_template_nlg.json",  # the builder reads the system's beside it
    languages={None: "zh"},
    domain="dialogue",
    homepage="https://github.com/ConvLab/ConvLab-3",
    licence="Apache-2.0",
    attribution_required=True,
    attribution=(
        "CrossWOZ (in convlab 3.0.0.dev20221130), copyright (c) thu-coai, Tsinghua University, Apache License 2.0; "
        "utterances joined by what they ask and tell, the values that were blanked replaced by made-up ones."
    ),
)
