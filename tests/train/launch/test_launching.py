"""What all engines share: orders are checked, and a dry run shows what would be sent."""

import re
import shlex
from pathlib import Path

import pytest

from tests.train.launch.orders import SOURCE, fixed_source, order_of  # noqa: F401
from train.__main__ import ENGINES, main
from train.launch import launching
from train.launch.launching import AGAIN, CHECKOUT, FINAL, launch, moved, ordered, value_of
from train.launch.slurm import Slurm
from train.launch.tpu_vm import TpuVm
from train.supervision import exits

pytestmark = pytest.mark.usefixtures("fixed_source")
PAGES = ("docs/clusters.md", "README.md", "README.zh.md")


def commands(page: str) -> list[str]:
    """The lines of a page that launch something, continued ones joined."""
    text = (CHECKOUT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(rf"^ +\./launch\.sh +((?:{'|'.join(ENGINES)}) .*)$", text, re.MULTILINE)
    return [line.partition("   #")[0] for line in found]


@pytest.mark.parametrize("line", [line for page in PAGES for line in commands(page)])
def test_every_command_that_the_pages_show_would_be_sent(line, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line)
    own = words.index("--")
    assert main([*words[:own], "--dry-run", *words[own:]]) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    assert "--- commands" in shown
    assert shown.startswith("source: commit cccccccccccc, tree 777777777777\n")
    assert list(tmp_path.iterdir()) == []


def test_the_pages_show_every_engine():
    assert {line.split()[0] for line in commands("docs/clusters.md")} == set(ENGINES)


def test_every_exit_code_is_started_again_or_not():
    """Those of exits.py: none is forgotten, none is both."""
    codes = {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}
    assert {*FINAL, *AGAIN, exits.DONE} == codes
    assert not set(FINAL) & set(AGAIN)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "slurm: what shall run\\? End with -- and a command"),
        (["--"], "slurm -- nothing: give a verb that goes on where it stopped; known: pretrain, finetune"),
        (["--", "pretain"], "slurm -- 'pretain': .*did you mean 'pretrain'"),
        (["--", "pretrain", "--steps", "many"], "--steps"),
        (["--node", "2", "--", "pretrain"], "unknown option '--node'; did you mean '--nodes'"),
        (["--nodes", "3", "--", "pretrain"], r"--nodes 3 x --tasks-per-node 1 = 3 devices, mesh data=3 .*: \d+ rows"),
        (
            ["--", "pretrain", "--mesh.fsdp", "2"],
            "= 1 devices, but the mesh is data=1 x fsdp=2 x tensor=1 x context=1 = 2",
        ),
        (["--job", "No Name", "--", "pretrain"], "--job No Name: must be of at most 40 small letters"),
        (["--grace", "0", "--", "pretrain"], "--grace 0, --restarts 100: must be 1 or more, and 0 or more"),
        (["--", "pretrain", "--data.sources", "files:/nowhere/*.txt"], "/nowhere"),
    ],
)
def test_what_cannot_run_is_told_in_one_line(words, message, capsys):
    assert main(["slurm", "--dry-run", *words]) == exits.MISTAKE
    told = capsys.readouterr().err
    assert re.search(message, told), told
    assert told.count("\n") == 1


def test_the_rows_that_are_proposed_fit(capsys):
    main(["slurm", "--dry-run", "--nodes", "3", "--", "pretrain"])
    rows = re.search(r"use --batch.rows (\d+)", capsys.readouterr().err)
    assert rows is not None
    assert main(["slurm", "--dry-run", "--nodes", "3", "--", "pretrain", "--batch.rows", rows[1]]) == 0


@pytest.mark.parametrize("verb", ENGINES)
def test_without_its_client_an_engine_says_where_that_is_had(verb, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nonexistent")
    own = {
        "slurm": [], "gke": ["--image", "a", "--claim", "b"], "k8s": ["--image", "a", "--claim", "b"],
        "tpu-vm": ["pod"], "sky": ["--volume", "a"],
    }[verb]  # fmt: skip
    assert main([verb, *own, "--", "pretrain", "--run", "/data/runs/a"]) == exits.MISTAKE
    client = ENGINES[verb].client
    assert f"{verb}: no program {client} here, which" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ENGINES)
def test_help_shows_an_example_of_its_verb(verb, capsys):
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    page = capsys.readouterr().out
    example = re.search(rf"^\./launch\.sh {verb} (.*)$", page, re.MULTILINE)
    assert example is not None
    assert "-- pretrain" in page


def test_files_of_the_checkout_become_those_of_what_is_sent(tmp_path):
    """A recipe beside it stays where it is for an engine that shares files, and is refused by one that does not."""
    root = Path("/there")
    recipe = CHECKOUT / "train/recipes/laptop.py"
    assert moved(str(recipe), root, remote=True) == "/there/train/recipes/laptop.py"
    assert moved(f"--recipe={recipe}", root, remote=True) == "--recipe=/there/train/recipes/laptop.py"
    mine = tmp_path / "mine.py"
    mine.write_text("")
    assert moved(str(mine), root, remote=False) == str(mine)
    with pytest.raises(ValueError, match=r"mine.py: lies outside of .* so it would not be sent; move it there"):
        moved(str(mine), root, remote=True)
    for word in ("laptop", "--model.L", "2", "nowhere.py"):
        assert moved(word, root, remote=True) == word


def test_the_last_value_of_an_option_counts():
    assert value_of(["--run", "a", "--run=b"], "--run") == "b"
    assert value_of(["--running", "a"], "--run") is None


def test_a_job_is_named_after_its_run():
    assert order_of(Slurm(), "--run", "runs/My Run.2").name == "my-run-2"
    assert order_of(Slurm(job="mine")).name == "mine"


def test_a_base_that_lies_on_the_cluster_is_not_looked_for_here():
    command = ("finetune", "/data/runs/base", "--run", "/data/runs/talks")
    found = ordered(TpuVm(tpu="pod"), command)
    assert (found.recipe, found.run, found.words) == (None, "/data/runs/talks", command)
    with pytest.raises(ValueError, match="say where it is written, with --run"):
        ordered(TpuVm(tpu="pod"), command[:2])


def test_a_job_is_checked_kept_and_queued_in_this_order(monkeypatch, tmp_path):
    """And where the check fails nothing is kept or queued."""
    done = []
    monkeypatch.setattr(launching, "sent", lambda command: done.append(command[0]) or "7")
    monkeypatch.setattr(launching.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(Slurm, "check", lambda self, order: done.append("check"))
    monkeypatch.setattr(Slurm, "prepare", lambda self, order: done.append("prepare"))
    monkeypatch.setattr(Slurm, "follow", lambda self, order, plan, said: done.append(f"follow {said}") or 75)
    words = ["--folder", str(tmp_path / "sent"), "--", "pretrain", "--run", "runs/mine"]
    assert launch(Slurm, words, say=lambda line: None) == 75
    assert done == ["check", "prepare", "sbatch", "follow 7"]
    assert (tmp_path / "sent/mine/job.sbatch").exists()
    assert launch(Slurm, ["--detach", *words], say=lambda line: None) == 0
    assert done[-1] == "sbatch"

    def refuses(self, order):
        raise ValueError("no")

    monkeypatch.setattr(Slurm, "check", refuses)
    done.clear()
    with pytest.raises(ValueError, match="no"):
        launch(Slurm, ["--folder", str(tmp_path / "other"), *words[2:]], say=lambda line: None)
    assert done == []
    assert not (tmp_path / "other").exists()


def test_what_a_dry_run_shows_is_what_is_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(launching, "sent", lambda command: "7")
    monkeypatch.setattr(launching.shutil, "which", lambda name: f"/bin/{name}")
    for name in ("check", "prepare"):
        monkeypatch.setattr(Slurm, name, lambda self, order: None)
    said = []
    words = ["--folder", str(tmp_path), "--detach", "--", "pretrain", "--run", "runs/mine"]
    launch(Slurm, ["--dry-run", *words], say=said.append)
    assert not (tmp_path / "mine").exists()
    launch(Slurm, words, say=lambda line: None)
    assert (tmp_path / "mine/job.sbatch").read_text().strip() in "\n".join(said)
    assert said[0] == f"source: {SOURCE}"


def test_a_run_that_is_there_may_go_on_on_devices_that_a_new_one_could_not_have(tmp_path):
    engine, words = Slurm(nodes=3), ("--run", str(tmp_path))
    with pytest.raises(ValueError, match="do not divide"):
        order_of(engine, *words)
    (tmp_path / "starts.jsonl").write_text('{"step": 0}\n')
    with pytest.raises(ValueError, match="do not divide"):  # of an older gptjax, which did not note how its rows lay
        order_of(engine, *words)
    (tmp_path / "starts.jsonl").write_text('{"step": 0, "layout": {"most": 1}}\n')
    assert order_of(engine, *words).run == str(tmp_path)
