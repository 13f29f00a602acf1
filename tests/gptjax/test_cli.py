"""The command `gptjax`, as its user meets it."""

import dataclasses
import io
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from gptjax import cli
from gptjax.inference.generation_config import GenerationConfig
from gptjax.inference.language_model import LanguageModel
from gptjax.runs.checkpoint import CheckpointWriter
from gptjax.runs.manifest import MANIFEST
from gptjax.runs.rundir import GENERATION
from gptjax.text.tokenizer import train_characters
from tests.tiny_run import characters, random_model, reciter, write_run

TEXT = "the quick brown fox 曹操 jumps"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a run that recites TEXT from its second token on, and one of random weights."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "reciter", reciter([*characters().encode(TEXT), characters().eos], characters()))
    write_run(folder / "random", random_model())
    return folder


def in_process(monkeypatch, capsys, *words):
    """The same without a new process, for what needs no clean one."""
    monkeypatch.setattr(sys, "argv", ["gptjax", *map(str, words)])
    cli.main()
    return capsys.readouterr()


def refused(monkeypatch, capsys, *words):
    """The one line with which a call is refused."""
    monkeypatch.setattr(sys, "argv", ["gptjax", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


def worked():
    """Seconds of a processor that ended child processes have taken: a busy machine does not stretch them."""
    spent = os.times()
    return spent.children_user + spent.children_system


def test_a_typo_is_reported_at_once_and_without_jax(runs):
    """Within 2 s of work: nothing of JAX is imported by then, nor TensorFlow, train or data."""
    program = (
        "import sys\nfrom gptjax import cli\n"
        "try: cli.main()\n"
        "finally: assert not {'jax', 'flax', 'orbax', 'tensorflow', 'train', 'data'} & sys.modules.keys(), 'slow'"
    )
    for words, answer in {
        ("generate", runs / "recitr"): "no such run; did you mean 'reciter'?",
        ("generate", runs / "reciter", "--tokns", "3"): "unknown option '--tokns'; did you mean '--tokens'?",
        ("genrate",): "unknown verb 'genrate'; did you mean 'generate'?",
        ("checkpoint", "verify", runs / "recitr"): "no such run; did you mean 'reciter'?",
        ("checkpoint", "list", runs / "reciter", "--stp", "3"): "unknown option '--stp'; did you mean '--step'?",
        ("checkpoint", "list", runs / "reciter", "--step", "3"): "step=3: goes with verify",
    }.items():
        began = worked()
        command = [sys.executable, "-c", program, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert answer in done.stderr
        assert worked() - began < 2


def test_a_bad_call_is_refused_in_one_line(runs, monkeypatch, capsys):
    run = runs / "reciter"
    for words, answer in {
        (): "RUN",
        (run, "--tokens", "many"): "'many'",
        (run, "--temperature", "-1"): "temperature=-1.0: must be 0",
        (run, "--samples", "2"): "needs --prompt",
        (run, "--log-probs"): "log_probs needs --prompt",
        (run, "--chat"): "chat needs --prompt",
        (run, "--prompt", "a", "--system", "b"): "system needs --chat: alone, --prompt is a text that is continued",
        (run, "--prompt", "a", "--min-p", "2"): "min_p=2.0: must be above 0 and at most 1",
        (run, "--prompt", "a", "--logit-bias", "the fox", "1"): "'the fox' is no token of this vocabulary, but 7 of",
        (run, "--prompt", "a", "--step", "3"): "no usable checkpoint of step 3; there are [10]",
        (run, "--prompt", "a" * 99): "has 100 tokens; this model's context holds from 1 to 64",
        (run, "--prompt", "a", "--topk", "3"): "did you mean '--top-k'?",
        (runs,): "holds runs, but is none itself",
        (runs / "none" / "such",): "no such run",
    }.items():
        assert answer in refused(monkeypatch, capsys, "generate", *words)


def test_help_lists_verbs_and_teaches_options(monkeypatch, capsys):
    for words, expected in {
        ("--help",): ["generate", "Continue a text"],
        ("generate", "--help"): [
            "RUN",
            "--prompt",
            "--temperature",
            "likeliest",
            "--seed",
            "/new",
            "(default: 200)",
            "--min-p",
            "--repetition-penalty",
            '--logit-bias " the" -5',
            "--log-probs",
        ],
    }.items():
        monkeypatch.setattr(sys, "argv", ["gptjax", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        out = capsys.readouterr().out
        assert [word for word in expected if word not in out] == []


def test_a_prompt_is_continued(runs, monkeypatch, capsys):
    """From a shell: the prompt, then what the model says, up to EOS; and before a stop string."""
    words = ["generate", runs / "reciter", "--temperature", "0", "--prompt"]
    command = [sys.executable, "-m", "gptjax.cli", *map(str, words), ""]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout) == (0, TEXT + "\n"), done.stderr
    out, _ = in_process(monkeypatch, capsys, *words, "the", "--stop", "曹", "fox!")
    assert out == "the quick brown fox \n"


def test_a_stop_string_and_a_bias_may_be_typed_with_a_line_break(tmp_path, monkeypatch, capsys):
    r"""As \n, as `gptjax evaluate` has it; not in a prompt."""
    text = "one\ntwo fox"
    letters = train_characters([text + "\\"], 400)
    run = write_run(tmp_path / "run", reciter([*letters.encode(text), letters.eos], letters))
    words = ("generate", run, "--temperature", "0", "--prompt")
    assert in_process(monkeypatch, capsys, *words, "", "--stop", "\\n").out == "one\n"
    assert in_process(monkeypatch, capsys, *words, "", "--logit-bias", "\\n", "-inf").out != text + "\n"
    assert in_process(monkeypatch, capsys, *words, "").out == text + "\n"
    assert in_process(monkeypatch, capsys, *words, "\\n").out.startswith("\\ne\n")


TALK = (
    "{% for m in messages %}{{ '<|bos|>' + m['role'] + ' ' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|bos|>' }}{% endif %}"
)


@pytest.fixture
def talker(monkeypatch):
    """A model that talks by a template of its own: behind the turn "hi" it says "the fox", of a plain text nothing."""
    letters = characters()

    def talk(turn):
        before = len(letters.encode_spelt(f"<|bos|>user {turn}<|bos|>"))
        said = [letters.eos] * (before - 1) + [*letters.encode(" the fox"), letters.eos]
        model = reciter(said, letters)
        generation_config = dataclasses.replace(model.generation_config, chat_template=TALK, begins_with_bos=False)
        model = LanguageModel(model.config, letters, model.params, generation_config=generation_config)
        monkeypatch.setattr("gptjax.load", lambda *_, **__: model)

    return talk


def test_a_prompt_may_be_a_turn_of_a_conversation(talker, runs, monkeypatch, capsys):
    """By the model's template, a system message too; the answer alone is printed. A run answers in a line."""
    talker("hi")
    words = ("generate", "model", "--temperature", "0", "--prompt", "hi")
    assert in_process(monkeypatch, capsys, *words, "--chat").out == "the fox\n"
    many = in_process(monkeypatch, capsys, *words, "--chat", "--samples", "2").out
    assert many.splitlines()[1::2] == ["the fox"] * 2
    talker("hi<|bos|>system brief")  # of the same length
    assert in_process(monkeypatch, capsys, *words, "--chat", "--system", "brief").out == "the fox\n"
    monkeypatch.undo()
    size = 1 + len("A: hi\nB:")
    run = reciter([characters().pad] * (size - 1) + characters().encode(" fox\nA: more"), characters())
    monkeypatch.setattr("gptjax.load", lambda *_, **__: run)
    assert in_process(monkeypatch, capsys, *words, "--chat").out == "fox\n"


def test_a_text_that_ends_at_once_is_told_and_a_talking_model_offers_to_talk(talker, runs, monkeypatch, capsys):
    """On stderr; not where something was said."""
    talker("hi")
    words = ("generate", "model", "--temperature", "0", "--prompt")
    out, err = in_process(monkeypatch, capsys, *words, "hi")
    assert (out, err) == ("hi\n", "[nothing: the model ended the text at once; it has learnt to talk: try --chat]\n")
    assert in_process(monkeypatch, capsys, *words, "hi", "--chat").err == ""
    out, err = in_process(monkeypatch, capsys, *words, "hi", "--chat", "--stop", " ")
    assert (out, err) == ("\n", "[nothing: a stop string came first]\n")


def test_a_line_that_is_no_text_is_refused_and_the_next_one_answered(runs, monkeypatch, capsys):
    """Bytes that are no UTF-8, as a C locale passes them on."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("\udcff\nhello\n"))
    out, err = in_process(monkeypatch, capsys, "generate", runs / "random", "--tokens", "3")
    assert out.count("\n") == 1
    assert "this line: character 0 is '\\udcff', half of a surrogate pair" in err
    assert "a prompt: character 0" in refused(monkeypatch, capsys, "generate", runs / "random", "--prompt", "\udcff")


def test_log_probabilities_are_listed_token_by_token(runs, monkeypatch, capsys):
    """After the text: nats, per cent and the token, also of EOS; then their mean. A bias changes the text, not them."""
    words = ("generate", runs / "reciter", "--prompt", "", "--temperature", "0", "--log-probs")
    out, _ = in_process(monkeypatch, capsys, *words)
    text, *lines, mean = out.splitlines()
    assert text == TEXT
    assert len(lines) == len(TEXT) + 1
    assert [line.split(maxsplit=2)[2] for line in lines] == [*map(repr, TEXT), "'<|eos|>'"]
    nats = [float(line.split()[0]) for line in lines]
    assert float(mean.split()[0]) == pytest.approx(sum(nats) / len(nats), abs=1e-4)
    assert f"of {len(lines)} tokens" in mean
    out, _ = in_process(monkeypatch, capsys, *words, "--tokens", "1", "--logit-bias", "t", "-inf", "f", "9")
    assert out.startswith("f\n")
    assert float(out.splitlines()[1].split()[0]) < nats[0]


def test_samples_differ_and_are_printed_one_after_another(runs, monkeypatch, capsys):
    words = ("generate", runs / "random", "--prompt", "the", "--samples", "3", "--tokens", "20", "--temperature", "1")
    out, _ = in_process(monkeypatch, capsys, *words)
    parts = out.split("── sample ")
    assert [part[:8] for part in parts[1:]] == ["1 of 3 ─", "2 of 3 ─", "3 of 3 ─"]
    assert len({part[8:] for part in parts[1:]}) == 3
    assert in_process(monkeypatch, capsys, *words).out == out
    assert in_process(monkeypatch, capsys, *words, "--seed", "1").out != out


def test_a_full_context_is_said(runs, monkeypatch, capsys):
    out, err = in_process(monkeypatch, capsys, "generate", runs / "random", "--prompt", "the", "--tokens", "500")
    assert out.startswith("the")
    assert "context of 64 tokens is full" in err
    out, err = in_process(monkeypatch, capsys, "generate", runs / "random", "--prompt", "the", "--tokens", "5")
    assert err == ""


def test_piped_lines_are_answered_one_by_one(runs, monkeypatch, capsys):
    """One reply a line; /new forgets; a line too long is refused on stderr and the next one answered."""
    words = ("generate", runs / "random", "--tokens", "8", "--temperature", "1")
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\nhello\n"))
    two, _ = in_process(monkeypatch, capsys, *words)
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n\n/new\n" + "x" * 99 + "\nhello\n"))
    fresh, err = in_process(monkeypatch, capsys, *words)
    assert two.split("\n")[0] == fresh.split("\n")[0]
    assert two.count("\n") == fresh.count("\n") == 2
    assert fresh.split("\n")[0] == fresh.split("\n")[1] != two.split("\n")[1]
    assert err.count("\n") == 1
    assert "of which 8 are kept for the reply" in err


def test_an_empty_answer_to_a_piped_line_is_told(talker, monkeypatch, capsys):
    """An empty line alone does not say whether the model ended or the program did; not where something was said."""
    talker("hi")
    monkeypatch.setattr(sys, "stdin", io.StringIO("hi\nha ha\n"))
    out, err = in_process(monkeypatch, capsys, "generate", "model", "--temperature", "0", "--stop", "hello")
    assert out.startswith("the fox\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("hi\n"))
    out, err = in_process(monkeypatch, capsys, "generate", "model", "--temperature", "0", "--stop", " ")
    assert (out, err) == ("\n", "[nothing: a stop string came first]\n")


def test_a_run_that_was_taught_to_talk_answers_until_it_ends_by_itself(tmp_path, monkeypatch, capsys):
    """Also over several lines; one that was not taught stops with its line."""
    letters, asked = characters(), "<|bos|>A: hello\nB:"
    said = [letters.pad] * (len(letters.encode_spelt(asked)) - 1) + [*letters.encode(" the\nfox"), letters.eos]
    run = write_run(tmp_path / "run", reciter(said, letters))
    words = ("generate", run, "--temperature", "0")
    for wanted in ("the\n", "the\nfox\n"):
        monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
        assert in_process(monkeypatch, capsys, *words).out == wanted
        assert in_process(monkeypatch, capsys, *words, "--prompt", "hello", "--chat").out == wanted
        GenerationConfig.of_turns(letters).save(run / GENERATION, letters)


def test_a_session_greets_and_leaves_cleanly(runs, monkeypatch, capsys):
    """At a terminal: how to leave is said first; Ctrl-D and Ctrl-C both end it without a word of Python."""
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    for leave in (EOFError, KeyboardInterrupt):
        typed = iter(["hello", "", "/new", "hello", leave])

        def reads(label, typed=typed):
            line = next(typed)
            if isinstance(line, str):
                return line
            raise line

        monkeypatch.setattr("builtins.input", reads)
        out, err = in_process(monkeypatch, capsys, "generate", runs / "random", "--tokens", "5")
        greeting, first, second, *_ = out.splitlines()
        assert "Ctrl-D leaves" in greeting
        assert "step 10" in greeting
        assert first == second
        assert first.startswith("B: ")
        assert err == ""


@pytest.fixture
def steps(tmp_path):
    """A run with steps 10, 20 and 30."""
    return write_run(tmp_path / "run", random_model(), steps=(10, 20, 30))


def damage(run, step):
    """Changes one byte of a file and says which."""
    path = run / "checkpoints" / str(step) / "params" / "_METADATA"
    path.write_bytes(path.read_bytes().replace(b"{", b"[", 1))
    return "params/_METADATA"


def test_steps_are_listed_with_what_is_wrong_with_them(steps, monkeypatch, capsys):
    """Without JAX: what is whole, what was set aside, left unfinished or cut short; the best one, and its loss."""
    writer = CheckpointWriter(steps, keep=2)
    model = random_model()
    writer.save(40, {"params": model.params}, {"loss": 1.25}, best=20)
    writer.close()
    shutil.copytree(steps / "checkpoints/40", steps / "checkpoints/50.damaged")
    (steps / "checkpoints/60.unfinished-ab").mkdir()
    (steps / "checkpoints/70").mkdir()
    program = (
        "import sys\nfrom gptjax import cli\ncli.main()\n"
        "assert not {'jax', 'flax', 'orbax', 'tensorflow'} & sys.modules.keys(), 'slow'"
    )
    command = [sys.executable, "-c", program, "checkpoint", "list", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    heading, *rows = [line.split() for line in done.stdout.splitlines()]
    assert heading == ["step", "saved", "size", "best", "loss", "state"]
    assert [(row[0], row[-1]) for row in rows] == [
        ("20", "complete"), ("30", "complete"), ("40", "complete"), ("70", "part"), ("50.damaged", "aside"),
        ("60.unfinished-ab", "unfinished"),
    ]  # fmt: skip
    assert [row[0] for row in rows if "best" in row] == ["20"]
    assert [row[0] for row in rows if "1.2500" in row] == ["40"]
    assert f"step 70: {MANIFEST}: is missing" in done.stdout


@pytest.mark.fault(32)
def test_verifying_reads_every_file_and_the_numbers(steps, monkeypatch, capsys):
    """One line a step; status 1 where one is bad, by its bytes or by a weight that is NaN. A good one alone is good."""
    lines = in_process(monkeypatch, capsys, "checkpoint", "verify", steps).out.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"step {step}: good" for step in (10, 20, 30)]
    name = damage(steps, 20)
    model = random_model()
    writer = CheckpointWriter(steps, keep=9)
    params = dict(model.params, embedding=model.params["embedding"] * np.float32("nan"))
    writer.save(40, {"params": params}, {})
    writer.save(50, {"params": model.params | {}, "ema": params}, {})
    writer.close()
    with pytest.raises(SystemExit) as end:
        in_process(monkeypatch, capsys, "checkpoint", "verify", steps)
    assert end.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert [line.split(",")[0] for line in lines if "good" in line] == ["step 10: good", "step 30: good"]
    assert f"step 20: {name}: sha256 is" in lines[1]
    assert "step 40: params/embedding has" in lines[3]
    assert "step 50: ema/embedding has" in lines[4]
    assert in_process(monkeypatch, capsys, "checkpoint", "verify", steps, "--step", "10").out.count("good") == 1
    with pytest.raises(SystemExit):
        in_process(monkeypatch, capsys, "checkpoint", "verify", steps, "--step", "11")
    assert "step 11: manifest.json: is missing" in capsys.readouterr().out


@pytest.mark.fault(3)
@pytest.mark.filterwarnings("always")
def test_a_damaged_newest_step_is_told_and_the_one_before_it_speaks(steps, monkeypatch, capsys):
    """One line on stderr, beside the text."""
    name = damage(steps, 30)
    out, err = in_process(monkeypatch, capsys, "generate", steps, "--prompt", "the", "--tokens", "5")
    assert out.startswith("the")
    assert err.count("\n") == 1
    assert f"gptjax: not used: step 30: {name}: sha256 is" in err
    assert "has no ema" in refused(monkeypatch, capsys, "generate", steps, "--step", "10", "--weights", "ema")
