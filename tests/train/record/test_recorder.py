"""What a run shows of a measurement."""

import io

from rich.console import Console

from train.record.metrics import Findings, Score, TermScore
from train.record.recorder import scores_table

TASKS = ("masked_lm", "position", "order", "continuity", "classify/source", "classify/type", "classify/language")


def test_the_scores_of_seven_tasks_and_ten_sources_stand_in_80_columns_a_line_each():
    """Of a terminal and of a file; a name is whole, though it take a second line."""
    sources = {f"wiki_leads/{number}": Score(bits_per_byte=2.125 + number) for number in range(10)}
    long = f"files:/{'very/' * 30}long[bold].txt"
    scored = TermScore(measured={"accuracy": 0.5, "baseline_accuracy": 0.25})
    table = scores_table(250, Findings(sources | {long: Score(bits_per_byte=1.5)}, dict.fromkeys(TASKS, scored)))
    for settings in ({"force_terminal": True}, {"force_terminal": False}):
        console = Console(width=80, record=True, file=io.StringIO(), **settings)
        console.print(table)
        lines = [line.rstrip() for line in console.export_text().splitlines()]
        assert max(map(len, lines)) <= 80
        assert lines[0] == "step 250: a sample of held-out text"
        assert [line.split() for line in lines if line.startswith(TASKS)] == [
            [task, "50.0%", "25.0%"] for task in TASKS
        ]
        assert ["wiki_leads/3", "5.125"] in [line.split() for line in lines]
        assert long in "".join(line.split("  ")[0] for line in lines)
