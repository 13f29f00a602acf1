"""What a fine-tuning run learns from: its examples, rendered as the base talks, and running text of the base beside."""

import dataclasses
from pathlib import Path

from data.examples.labelling import prepare_labelled
from data.examples.preparing import Talks, prepare_examples
from data.prepare import begun, prepare
from data.spec import DataSpec
from gptjax.inference.learned_spans import ConversationEncoder
from train.recipe import from_json
from train.tuning.base import Base, open_base
from train.tuning.tune_recipe import TuneRecipe

OTHERS_TEXT = ("wiki_leads/en",)  # by which it is measured what a model of somebody else forgets


def talks_of(recipe: TuneRecipe) -> Talks:
    """Tokenizer and way of talking of the run: the base's, but for a template that the recipe gives."""
    base = open_base(recipe.base)
    if recipe.examples.head is not None:
        return Talks(base.tokenizer, base.habits)
    talks = base.generation_config
    if recipe.examples.template is not None:
        talks = dataclasses.replace(talks, chat_template=recipe.examples.template.read_text(encoding="utf-8"))
    end = ConversationEncoder(base.tokenizer, talks).end  # is learnt, and so it ends what is written
    encodes = recipe.examples.prefix
    return Talks(base.tokenizer, dataclasses.replace(talks, ends=talks.ends | {end}, encodes_prompt=encodes))


def prepared_examples(recipe: TuneRecipe) -> Path:
    """The prepared folder of a run's examples, made now if it was not yet.

    Raises ValueError, before that, for an augmentation that the base's tokenizer cannot do.
    """
    recipe.augment.check(open_base(recipe.base).tokenizer)
    if recipe.examples.head is not None:
        has_read = recipe.replay > 0 or open_base(recipe.base).is_run  # what it held out then is held out again
        return prepare_labelled(
            recipe.examples, talks_of(recipe).tokenizer, recipe.row_length, recipe.data.prepared,
            running=running_text(recipe) if has_read else None, replay=recipe.replay,
        )  # fmt: skip
    return prepare_examples(
        recipe.examples, talks_of(recipe), recipe.row_length, recipe.data.prepared,
        running=running_text(recipe), replay=recipe.replay,
    )  # fmt: skip


def running_text(recipe: TuneRecipe) -> Path | None:
    """The prepared running text of a run's base; None where it is here no more, and is not to be replayed.

    Raises ValueError where it is to be.
    """
    base = open_base(recipe.base)
    try:
        return prepare(recipe.data, of_run=begun(base.path) if base.is_run else None)
    except ValueError as error:
        if recipe.replay:
            raise ValueError(f"{error} (running text of the base {recipe.base}; --replay 0 does without)") from None
        return None


def text_of(base: Base, prepared: Path) -> DataSpec:
    """Which running text a base is measured on: what a run was trained on; of other models an encyclopaedia."""
    if base.is_run and (base.path / "recipe.json").is_file():
        return from_json((base.path / "recipe.json").read_text(encoding="utf-8")).data
    kept = prepared / "tokenizers" / f"{base.tokenizer.fingerprint[:16]}.json"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        base.tokenizer.save(kept)
    return DataSpec(sources=OTHERS_TEXT, tokenizer=str(kept), prepared=prepared)
