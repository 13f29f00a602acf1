import dataclasses
import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from gptjax.config import SIZES, ModelConfig, save_model_config
from train.record.metrics import NAN, Score, SourceRecord, Train, as_json, by_step, read_metrics, scores_by_step
from train.report.figures import smooth, thin
from train.report.report import BYTES, WORDS, duration, in_units, losses_by_step, write_report

HOSTILE = "<script>alert('$x$')</script>&\"--></svg>"
CHINESE = "玄德曰：“骨角刃入门”\n  却说曹操"


def train_record(step, loss=4.0, seconds=0.0):
    return {"kind": "train", "step": step, "tokens": step * 4096, "loss": loss, "learning_rate": 1e-3,
            "gradient_norm": 0.7, "tokens_per_second": 23_000.0, "mfu": None, "seconds": seconds}  # fmt: skip


def validation_record(step, source, loss=3.0, bits=2.0):
    return {
        "kind": "validation",
        "step": step,
        "source": source,
        "loss": loss,
        "perplexity": 20.1,
        "bits_per_byte": bits,
    }


def sample(step, source, text, prompt="", language="en"):
    return {"step": step, "source": source, "language": language, "prompt": prompt, "text": text, "temperature": 0.8}


def source_record(words="plain", rate=512):
    held = {"documents": 20, "bytes": 50_000, "tokens": 20_000}
    return {"licence": words, "attribution": words, "citation": words, "language": words, "domain": words, "rate": rate,
            "duplicates": 7, "splits": {"train": {"documents": 1234, "bytes": 3_000_000, "tokens": 1_200_000},
                                        "validation": held}}  # fmt: skip


def make_run(folder, *, metrics=(), samples=(), **files):
    """A run directory with these records, and NAME.json for every other keyword."""
    folder.mkdir(exist_ok=True)
    for name, records in (("metrics", metrics), ("samples", samples)):
        if records:
            text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def full_run(folder, words="plain"):
    metrics = [train_record(step, seconds=step * 0.3) for step in range(1, 40)]
    metrics += [validation_record(step, words, bits=5 - step / 10) for step in (20, 39)]
    make_run(
        folder,
        metrics=metrics,
        samples=[sample(39, words, words, prompt=words, language=words)],
        data={"sources": {words: source_record(words)}},
        recipe={words: {"optimizer": words, "list": [words]}},
        xz={words: {"alone": 2.5, "after_training_text": 0.9}},
        environment={words: words},
    )
    architecture = dataclasses.asdict(SIZES["nano"]())
    save_model_config(ModelConfig(**architecture, vocabulary=4096), folder / "model.json")
    return folder


def read(folder):
    return write_report(folder).read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Every start tag with its attributes, as a browser would see them."""

    def __init__(self, page):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_text_from_files_never_becomes_markup(tmp_path):
    """The same tags stand in the page whether the words of every file are plain or hostile, and the words are shown."""
    plain, hostile = read(full_run(tmp_path / "a", "plain")), read(full_run(tmp_path / "b", HOSTILE))
    assert "<script" not in hostile
    assert {tag for tag, _ in Tags(hostile).found} == {tag for tag, _ in Tags(plain).found}
    ticks = re.compile(r"<svg.*?</svg>", re.DOTALL)  # how many an axis has depends on the width of its labels
    in_order = [[tag for tag, _ in Tags(ticks.sub("", page)).found] for page in (hostile, plain)]
    assert in_order[0] == in_order[1]
    assert hostile.count(html.escape(HOSTILE)) >= 15


def test_the_page_fetches_nothing(tmp_path):
    """No attribute or style of the page points outside it, though the attribution names an address."""
    page = read(full_run(tmp_path / "run", "see https://example.org"))
    assert "see https://example.org" in page
    links = {"src", "href", "xlink:href", "srcset", "data", "poster", "action"}
    assert all(
        value[0] == "#" for _, attributes in Tags(page).found for key, value in attributes.items() if key in links
    )
    assert not {tag for tag, _ in Tags(page).found} & {"script", "link", "iframe", "img", "object", "base"}
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)", page))


def test_letters_of_figures_stay_text(tmp_path):
    page = read(full_run(tmp_path / "run", "wiki_leads"))
    assert re.search(r"<text[^>]*>nats per token</text>", page)
    assert re.search(r"<text[^>]*>wiki_leads</text>", page)


def test_figures_follow_light_and_dark(tmp_path):
    """A figure names colours by variable only, so none stays light when the page is dark."""
    figures = re.findall(r"<svg.*?</svg>", read(full_run(tmp_path / "run")), flags=re.DOTALL)
    assert len(figures) == 6
    assert all("var(--c0)" in figure and not re.search(r"#[0-9a-f]{6}\b", figure) for figure in figures)


def test_a_long_name_leaves_room_for_its_bars(tmp_path):
    """The chart shows the end of the name; the table, all of it."""
    name = "files:/data/" + "very/" * 20 + "plays"
    page = read(make_run(tmp_path / "run", metrics=[validation_record(5, name)]))
    assert re.search(r"<text[^>]*>…[^<]{1,30}very/plays</text>", page)
    assert f"<td>{name}</td>" in page


def test_chinese_arrives_whole_and_marked_as_chinese(tmp_path):
    samples = [sample(5, "三国", CHINESE, prompt="却说", language="zh")]
    page = read(make_run(tmp_path / "run", samples=samples, metrics=[validation_record(5, "三国")]))
    assert f'<blockquote lang="zh" dir="auto"><mark>却说</mark>{CHINESE}</blockquote>' in page
    assert '<meta charset="utf-8">' in page
    assert re.search(r"<text[^>]*>三国</text>", page)


def test_an_absent_file_leaves_only_its_section_out(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "train.report.report.draw", lambda *_: "<svg></svg>"
    )  # drawing is slow, and not the matter here
    run = full_run(tmp_path / "run")
    titles = {
        "recipe.json": ">Recipe:",
        "model.json": "Parameters",
        "data.json": "What it read",
        "xz.json": "xz -9 alone",
        "environment.json": "Environment",
        "samples.jsonl": "What it writes",
        "metrics.jsonl": "Training<",
    }
    assert missing(titles, read(run)) == set()
    for absent in titles:
        (run / absent).rename(tmp_path / "away")
        lost = {"xz.json", absent} if absent == "metrics.jsonl" else {absent}  # no model score, nothing to compare
        assert missing(titles, read(run)) == lost
        (tmp_path / "away").rename(run / absent)


def missing(titles, page):
    return {name for name, title in titles.items() if title not in page}


def test_an_empty_run_says_that_nothing_is_recorded(tmp_path):
    assert "No training step is recorded yet" in read(make_run(tmp_path / "run"))
    assert "No training step is recorded yet" not in read(make_run(tmp_path / "run", metrics=[train_record(1)]))


def test_a_missing_directory_and_a_damaged_file_are_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere is no run directory"):
        write_report(tmp_path / "nowhere")
    (make_run(tmp_path / "run") / "xz.json").write_text("{")
    with pytest.raises(ValueError, match=r"xz\.json is not JSON"):
        write_report(tmp_path / "run")


def test_lines_that_are_no_records_are_ignored(tmp_path):
    run = make_run(tmp_path / "run", metrics=[train_record(1)], samples=[sample(1, "s", "a text")])
    page = read(run)
    for name in ("metrics.jsonl", "samples.jsonl"):
        with (run / name).open("a") as file:
            file.write('null\n3\n[1]\n"text"\n')
    assert read(run) == page


def test_a_cut_last_line_is_ignored_even_inside_a_character(tmp_path):
    run = make_run(tmp_path / "run", metrics=[train_record(1)], samples=[sample(1, "s", "骨")])
    for name in ("metrics.jsonl", "samples.jsonl"):
        whole = (run / name).read_bytes()
        (run / name).write_bytes(whole + '{"text": "骨'.encode()[:-1])
    (found,) = read_metrics(run / "metrics.jsonl")
    assert as_json(found).items() >= {**train_record(1), "mfu": NAN}.items()
    assert read(run).count("骨") == 1


def test_of_a_repeated_step_the_later_record_wins(tmp_path):
    metrics = [train_record(step, loss=9.0) for step in (1, 2, 3)] + [
        train_record(step, loss=4.0) for step in (2, 3, 4)
    ]
    metrics += [validation_record(4, "s", bits=bits) for bits in (7.125, 2.125)]
    run = make_run(tmp_path / "run", metrics=metrics)
    records = read_metrics(run / "metrics.jsonl")
    assert [record[:1] + record[2:3] for record in by_step(records, Train)] == [(1, 9.0), (2, 4.0), (3, 4.0), (4, 4.0)]
    assert scores_by_step(records, SourceRecord, "validation")["s"][4].bits_per_byte == 2.125
    assert "7.125" not in read(run)


def test_only_the_latest_samples_of_each_source_are_shown_and_once(tmp_path):
    samples = [sample(5, "a", "old"), sample(9, "a", "new"), sample(9, "a", "other"), sample(5, "b", "alone")]
    page = read(make_run(tmp_path / "run", samples=[*samples, samples[1]]))
    assert [page.count(f">{text}<") for text in ("old", "new", "other", "alone")] == [0, 1, 1, 1]


def cells(page, source):
    """The cells of each table row that begins with this source, without tags."""
    rows = re.findall(rf"<tr><td>{source}(?:<small>.*?</small>)?</td>(.*?)</tr>", page)
    return [[re.sub(r"<.*?>", " ", cell).split() for cell in re.findall(r"<td>(.*?)</td>", row)] for row in rows]


def test_the_numbers_of_the_tables_are_those_of_the_files(tmp_path):
    scores, data, credits = cells(read(full_run(tmp_path / "run", "plays")), "plays")[:3]
    assert scores == [["1.100"], ["2.500"], ["0.900"], ["3.000"], ["20.1"]]
    assert data == [
        ["1,234", "20"],
        ["3,000,000", "50,000"],
        ["1,200,000", "20,000"],
        ["2.50", "2.50"],
        ["7"],
        ["50.0%"],
    ]
    assert credits == [["plays"], ["plays", "plays"]]


def test_the_verdict_tells_which_sources_are_beaten(tmp_path):
    metrics = [validation_record(9, name, bits=bits) for name, bits in (("a", 2.0), ("b", 2.5), ("c", 3.0))]
    xz = {name: {"alone": 3.5, "after_training_text": 2.5} for name in "abc"}
    page = read(make_run(tmp_path / "run", metrics=metrics, xz=xz))
    assert "beats <b>xz -9 alone</b> on every source" in page
    assert "beats <b>xz -9 given the training text</b> on 1 of 3 sources (a), not on b and c." in page
    xz["c"]["alone"] = 1.0
    assert "beats <b>xz -9 alone</b> on 2 of 3 sources" in read(make_run(tmp_path / "run", xz=xz))


def test_overall_loss_weighs_sources_as_training_did():
    validation = {"a": {5: Score(loss=2.0), 9: Score(loss=2.0)}, "b": {5: Score(loss=4.0)}}
    assert losses_by_step(validation, {"a": 768, "b": 256}) == {5: 2.5}
    assert losses_by_step(validation, {}) == {5: 3.0}


def test_the_time_is_that_of_all_starts_and_says_how_many(tmp_path):
    run = make_run(tmp_path, metrics=[train_record(step, seconds=30 * step) for step in (1, 2, 3)])
    assert "<dd>1 min 30 s<small>from start to last step</small>" in read(run)
    (run / "starts.jsonl").write_text('{"step": 0, "seconds": 0.0}\n{"step": 2, "seconds": 300.0}\n')
    assert "<dd>6 min 30 s<small>from start to last step, in 2 starts</small>" in read(run)


def test_a_run_of_one_step_or_of_missing_numbers_is_drawn(tmp_path):
    assert read(make_run(tmp_path / "one", metrics=[train_record(1)])).count("<svg") == 4
    broken = {**train_record(2), "gradient_norm": None, "loss": float("nan")}
    page = read(make_run(tmp_path / "two", metrics=[broken, validation_record(2, "s", bits=float("nan"))]))
    assert page.count("<svg") == 5  # all but the gradient norm


def test_smooth_keeps_a_constant_and_skips_what_is_missing():
    np.testing.assert_allclose(smooth(np.array([2.0, np.nan, 2.0, 2.0, 2.0]), 3), 2.0, rtol=1e-12)
    assert smooth(np.array([0.0, 0.0, 8.0, 0.0, 0.0]), 3)[2] == pytest.approx(4.0)


def test_thin_keeps_the_spike_of_a_long_run():
    values = np.zeros(100_000)
    values[77_777] = 1.0
    kept = thin(values)
    assert 77_777 in kept
    assert len(kept) <= 800
    np.testing.assert_array_equal(thin(values[:5]), np.arange(5))


@pytest.mark.parametrize(("count", "units", "words"), [
    (4_213_000, WORDS, "4.21 million"), (999_900, WORDS, "1 million"), (812, WORDS, "812"), (0, BYTES, "0"),
    (12_340_000, BYTES, "12.3 MB"),
])  # fmt: skip
def test_amounts_have_three_digits_and_a_unit(count, units, words):
    assert in_units(count, units) == words


@pytest.mark.parametrize(("seconds", "words"), [(41.4, "41 s"), (432, "7 min 12 s"), (7500, "2 h 5 min")])
def test_durations_read_as_spoken(seconds, words):
    assert duration(seconds) == words


def test_numbers_that_are_none_are_drawn_as_gaps_and_told_as_none(tmp_path):
    """As null, and as the bare NaN of older runs."""
    records = [train_record(step, seconds=step) for step in (1, 2, 3)]
    lost = {"loss": None, "perplexity": None, "bits_per_byte": None}
    for nothing in (lost, dict.fromkeys(lost, float("nan"))):
        metrics = [*records, train_record(4, seconds=4) | {"loss": nothing["loss"]}, validation_record(4, "a")]
        metrics += [validation_record(4, "b") | nothing]
        page = write_report(make_run(tmp_path, metrics=metrics)).read_text()
        assert "<td>b</td><td>–</td><td>nan</td><td>nan</td>" in page
        assert "<td>a</td><td><b>2.000</b></td><td>3.000</td><td>20.1</td>" in page


def test_each_of_many_names_has_a_swatch_of_its_own_that_looks_like_its_line(tmp_path):
    """Of 32 names; the ninth has the colour of the first, and dashes where that has none. None is a fixed colour."""
    names = [f"source {k}" for k in range(32)]
    metrics = [validation_record(step, name) for name in names for step in (10, 20)]
    page = read(make_run(tmp_path, metrics=metrics))
    legend = page[page.index("<h3>Validation, by source</h3>") :]
    legend = legend[: legend.index("</ul>")]
    swatches = re.findall(r'<li><i style="(.*?)"></i>(source \d+)</li>', legend)
    assert [name for _, name in swatches] == names
    assert len({style for style, _ in swatches}) == len(names)
    assert swatches[0][0] == "background: var(--c0)"
    assert swatches[8][0].startswith("background: repeating-linear-gradient(90deg, var(--c0) ")
    lines = page[page.index("<h3>Validation, by source</h3>") :].split("</svg>")[0]
    strokes = set(re.findall(r'style="fill: none; ([^"]*stroke: var\(--c\d\)[^"]*)"', lines))
    assert len(strokes) == len(names)
