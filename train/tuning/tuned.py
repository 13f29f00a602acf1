"""What follows fine-tuning, as hooks: replies before and after, what was forgotten, the report."""

from typing import Any

from rich.markup import escape
from rich.table import Table

import gptjax
from gptjax.files.atomic_file import write_whole
from gptjax.files.plain_json import dumps
from train.report.finish import LAST_WORDS, REPORT, Finished, Hook
from train.report.report_replies import figure_rows
from train.report.report_written import written_rows
from train.tuning.base import base_path
from train.tuning.judged import JUDGED
from train.tuning.replies import Speaker, compared, exchanges, held_out_conversations, held_out_texts, measured
from train.tuning.talks import running_text
from train.tuning.tune_recipe import TuneRecipe
from train.tuning.written import AFTER, BEFORE, behind, held_out_items, written_figures

NAME, WRITTEN = "replies.json", "written.json"


def _compare(finished: Finished) -> None:
    """Measures the base and what became of it, and writes both."""
    recipe = finished.parts.recipe
    assert isinstance(recipe, TuneRecipe)
    conversations = held_out_conversations(finished.text.prepared)
    replies = exchanges(conversations, finished.text.tokenizer, recipe.row_length)
    running = running_text(recipe)
    texts = {} if running is None else held_out_texts(running)
    finished.console.print("\nmeasuring replies before and after ...")
    speakers = Speaker(gptjax.load(base_path(recipe.base))), Speaker(finished.model())  # both in float32
    replies = [one for one in replies if all(speaker.turn(one.messages) is not None for speaker in speakers)]
    if not replies:
        finished.console.print("no reply of the held-out conversations fits a row, so none is measured")
        return
    before, after = (measured(speaker, replies, texts) for speaker in speakers)
    found = {"step": speakers[1].model.step, **compared(before, after, replies)}
    write_whole(finished.run / NAME, dumps(found, indent=1, ensure_ascii=False) + "\n")
    finished.console.print(figures_table(found))
    for sample in found["samples"]:
        for who, text in (("you", sample["prompt"]), ("before", sample["before"]), ("after", sample["after"])):
            finished.console.print(f"  [bold]{who:>6}[/]  {escape(' '.join(text.split()))}", highlight=False)
        finished.console.print()


def figures_table(found: dict[str, Any]) -> Table:
    """For people."""
    table = Table(
        title=f"{found['after']['replies']} replies of held-out conversations, at step {found['step']}",
        title_justify="left",
        box=None,
    )
    for heading in ("", "before", "after"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for text, before, after in figure_rows(found):
        table.add_row(escape(text), before, after)
    return table


def _write(finished: Finished) -> None:
    """Answers held-out examples where one answer is right, and says how near it is, beside the base and baselines."""
    recipe, prepared = finished.parts.recipe, finished.text.prepared
    assert isinstance(recipe, TuneRecipe)
    count = recipe.examples.answered
    if not count or not held_out_items(prepared, count):
        return
    finished.console.print("\nanswering held-out examples before and after ...")
    speakers = {AFTER: Speaker(finished.model()), BEFORE: Speaker(gptjax.load(base_path(recipe.base)))}
    found = written_figures(prepared, speakers, count, finished.console.print)
    write_whole(finished.run / WRITTEN, dumps(found, indent=1, ensure_ascii=False) + "\n")
    for source, of_source in found.items():
        finished.console.print(written_table(source, of_source))
        for line in behind(of_source["figures"]):
            finished.console.print(f"  {line}", highlight=False, markup=False)


def written_table(source: str, found: dict[str, Any]) -> Table:
    """For people."""
    title = f"{found['items']} answers to held-out examples of {source}, at step {found['step']}"
    table = Table(title=title, title_justify="left", box=None)
    head, *rows = written_rows(found)
    for place, heading in enumerate(head):
        table.add_column(heading, justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def hooks_after(recipe: TuneRecipe) -> tuple[Hook, ...]:
    """What follows a run, by what it has learnt."""
    return TUNED if recipe.examples.head is None else JUDGED


TUNED = (
    Hook("replies before and after", _compare),
    Hook("figures of what it writes", _write),
    REPORT,
    LAST_WORDS,
)
