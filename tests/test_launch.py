"""launch.sh, held to its promises with fakes on PATH: no network, and never the real .venv."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SYSTEM_TOOLS = ("awk", "bash", "cat", "cksum", "cut", "dirname", "grep", "mkdir", "readlink", "rm", "sed")

# An interpreter of version $FAKE_VERSION that builds an environment out of thin air and logs what it was asked.
FAKE_PYTHON = """#!/bin/bash
here=$(cd "$(dirname "$0")" && pwd)
case "$1 $2" in
  "-c "*)
    set -- "$2" "import sys; sys.version_info = ($FAKE_VERSION); sys.executable = '$here/python3.12'"
    "$REAL_PYTHON" -ISc "$2; $1"
    ;;
  "--version ") echo "Python ($FAKE_VERSION)" ;;
  "-m venv") echo venv >>"$FAKE_LOG"; mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; cp "$0" "$3/bin/gptjax" ;;
  "-m pip") echo "pip${@: -1}" | sed 's/pip.*requirements/pip/' >>"$FAKE_LOG"; [ -z "$FAKE_PIP_FAILS" ] ;;
  *) echo "ran in $PWD:"; printf '<%s>' "$@" ;;
esac
"""


class Checkout:
    """A checkout with a space in its path and a PATH that holds fakes and a few system tools, nothing else."""

    def __init__(self, folder: Path):
        self.root = folder / "my checkout"
        self.bin = folder / "bin"
        self.log = folder / "log"
        (self.root / "requirements").mkdir(parents=True)
        self.bin.mkdir()
        shutil.copy(ROOT / "launch.sh", self.root)
        (self.root / ".python-version").write_text("3.12\n")
        for name in ("cpu", "tpu", "cuda", "corpora", "corpora-as-is"):
            (self.root / f"requirements/{name}.txt").write_text("numpy==1.0\n")
        for tool in SYSTEM_TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or f"/bin/{tool}")
        self.fake("cp", 'exec /bin/cp "$@"')
        self.fake("df", "echo header; echo /dev/disk 9 9 ${FAKE_FREE_KB:-99000000} 9% /")
        self.fake("python3.12", FAKE_PYTHON)

    def fake(self, name: str, script: str) -> None:
        """Puts an executable on PATH."""
        path = self.bin / name
        path.write_text(script if script.startswith("#!") else f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)

    def launch(
        self, *words: str, cwd: Path | None = None, script: Path | None = None, **env: str
    ) -> subprocess.CompletedProcess:
        """Runs launch.sh, or another name of it, from a folder of the caller's."""
        given = {"PATH": str(self.bin), "HOME": "/nonexistent", "FAKE_LOG": str(self.log)}
        return subprocess.run(
            [shutil.which("bash") or "bash", script or self.root / "launch.sh", *words],
            cwd=cwd or self.bin.parent,
            env={**given, "REAL_PYTHON": sys.executable, "FAKE_VERSION": "3, 12, 1", "GPTJAX_PLATFORM": "cpu", **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    @property
    def installs(self) -> list[str]:
        """What the fake interpreter was asked to make so far."""
        return self.log.read_text().split() if self.log.exists() else []


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A fresh clone, as far as launch.sh can tell."""
    return Checkout(tmp_path)


def assert_one_line(done: subprocess.CompletedProcess, *parts: str, code: int = 1) -> None:
    """The run failed with `code`, and its last words are one line that holds every part."""
    assert done.returncode == code, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("launch.sh: ")
    for part in parts:
        assert part in last


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("help",)])
def test_without_a_verb_it_teaches_every_verb(checkout: Checkout, words: tuple[str, ...]):
    """Asking for help lists the verbs, succeeds, and installs nothing."""
    done = checkout.launch(*words)
    assert done.returncode == 0
    for verb in ("setup", "pretrain", "generate", "serve", "test", "slurm", "gke", "k8s", "tpu-vm", "sky"):
        assert f"\n  {verb} " in done.stdout
    assert not checkout.installs


def test_a_link_to_it_uses_the_checkout_that_the_file_lies_in(checkout: Checkout):
    """Through two links, one of them relative and in another folder; nothing is made beside them."""
    folder = checkout.bin.parent / "tools"
    folder.mkdir()
    (folder / "one").symlink_to("../my checkout/launch.sh")
    (folder / "two").symlink_to(folder / "one")
    for link in ("one", "two"):
        done = checkout.launch("setup", script=folder / link)
        assert done.returncode == 0, done.stderr
        assert f"ready: {checkout.root}/.venv" in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["one", "two"]


@pytest.mark.parametrize("verb", ["setup", "pretrain", "generate", "serve", "test", "slurm", "tpu-vm"])
def test_a_verb_explains_itself_before_anything_is_installed(checkout: Checkout, verb: str):
    """VERB --help names the verb and succeeds without an environment, and makes none."""
    done = checkout.launch(verb, "--help")
    assert done.returncode == 0
    assert f"./launch.sh {verb}" in done.stdout
    assert not checkout.installs


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("slrum", "slurm"),
        ("tpuvm", "tpu-vm"),
        ("pretain", "pretrain"),
        ("gen", "generate"),
        ("tests", "test"),
        ("evalute", "evaluate"),
        ("export2", "export"),
    ],
)
def test_an_unknown_verb_names_the_likely_one(checkout: Checkout, typed: str, meant: str):
    """A typo is exit code 2 and one line with what was meant; nothing is installed."""
    assert_one_line(checkout.launch(typed), f"'{typed}'", f"did you mean '{meant}'", code=2)
    listed = (
        "setup pretrain finetune chain plan bench report audit verify-resume experiment checkpoint generate evaluate"
    )
    assert_one_line(checkout.launch("xyzzy"), listed, code=2)
    assert not checkout.installs


@pytest.mark.parametrize("version", ["2, 7, 18", "3, 11, 7", "3, 14, 0"])
def test_a_python_that_does_not_fit_is_refused_in_one_line(checkout: Checkout, version: str):
    """Too old or too new: the line says which versions fit, and no environment is begun; 3.13 is taken."""
    assert_one_line(checkout.launch("setup", FAKE_VERSION=version), "no Python 3.12 or 3.13", "install one")
    assert not (checkout.root / ".venv").exists()
    assert checkout.launch("setup", FAKE_VERSION="3, 13, 0").returncode == 0


def test_a_full_disk_is_named_before_anything_is_written(checkout: Checkout):
    """One GB free is too little: the line gives both numbers, and no environment is begun."""
    assert_one_line(checkout.launch("setup", FAKE_FREE_KB="1200000"), "1 GB", "needs 4 GB")
    assert not (checkout.root / ".venv").exists()


def test_a_platform_that_does_not_exist_is_refused(checkout: Checkout):
    """GPTJAX_PLATFORM=gpu is exit code 2 and names the legal values."""
    assert_one_line(checkout.launch("setup", GPTJAX_PLATFORM="gpu"), "'gpu'", "cpu, tpu or cuda", code=2)


def test_a_second_call_installs_nothing_and_a_new_lock_installs_again(checkout: Checkout):
    """The environment is made once; it is made anew when its lock changes, and when the platform does."""
    assert checkout.launch("setup").returncode == 0
    once = checkout.installs
    assert once.count("venv") == 1
    assert checkout.launch("setup").returncode == 0
    assert checkout.installs == once
    (checkout.root / "requirements/cpu.txt").write_text("numpy==2.0\n")
    assert checkout.launch("setup").returncode == 0
    assert checkout.installs == once * 2
    assert checkout.launch("setup", GPTJAX_PLATFORM="tpu").returncode == 0
    assert checkout.installs == once * 2 + [step.replace("cpu", "tpu") for step in once]


def test_text_of_unclear_licence_is_installed_only_on_demand_and_then_kept(checkout: Checkout):
    """--as-is warns and adds its lock to the environment that is there; a set-up from the start brings it again."""
    assert checkout.launch("setup").returncode == 0
    assert "pip/corpora-as-is.txt" not in checkout.installs
    done = checkout.launch("setup", "--as-is")
    assert done.returncode == 0
    assert "never redistribute" in done.stderr
    assert checkout.installs[-1] == "pip/corpora-as-is.txt"
    assert checkout.installs.count("venv") == 1
    once = checkout.installs
    for words in (("setup",), ("setup", "--as-is"), ("pretrain",)):
        assert checkout.launch(*words).returncode == 0
    assert checkout.installs == once
    (checkout.root / "requirements/cpu.txt").write_text("numpy==2.0\n")
    assert checkout.launch("setup", FAKE_PIP_FAILS="1").returncode == 1
    assert checkout.launch("setup").returncode == 0
    assert checkout.installs[-1] == "pip/corpora-as-is.txt"
    assert checkout.installs.count("venv") == 3


def test_a_failure_to_add_text_leaves_the_environment_whole(checkout: Checkout):
    """The last line says what to do; without the text, the environment serves as before."""
    assert checkout.launch("setup").returncode == 0
    once = checkout.installs
    assert_one_line(checkout.launch("setup", "--as-is", FAKE_PIP_FAILS="1"), "network", "try again")
    assert checkout.launch("setup").returncode == 0
    assert checkout.installs == [*once, "pip/corpora-as-is.txt"]


def test_setup_refuses_what_it_does_not_know(checkout: Checkout):
    assert_one_line(checkout.launch("setup", "--asis"), "--as-is", "'--asis'", code=2)
    assert not checkout.installs


def test_a_failed_set_up_is_not_taken_for_a_whole_one(checkout: Checkout):
    """When the installer fails the last line says what to do, and the next call starts over."""
    assert_one_line(checkout.launch("setup", FAKE_PIP_FAILS="1"), "network", "try again")
    assert (checkout.root / ".venv/bin/python").exists()
    assert checkout.launch("setup").returncode == 0
    assert checkout.installs.count("venv") == 2


def test_a_set_up_at_work_is_not_disturbed(checkout: Checkout):
    """While another process builds .venv a call says so and leaves it alone; once that one is gone it starts over."""
    (checkout.root / ".venv").mkdir()
    (checkout.root / ".venv/launch.stamp").write_text(f"building clean {os.getpid()}\n")
    assert_one_line(checkout.launch("setup"), f"process {os.getpid()}")
    gone = subprocess.Popen(["true"])
    gone.wait()
    (checkout.root / ".venv/launch.stamp").write_text(f"building clean {gone.pid}\n")
    assert checkout.launch("setup").returncode == 0


def test_an_environment_of_the_users_own_is_never_deleted(checkout: Checkout):
    """A .venv that launch.sh did not make stops it, and stays."""
    (checkout.root / ".venv/precious").mkdir(parents=True)
    assert_one_line(checkout.launch("setup"), "not made by launch.sh")
    assert (checkout.root / ".venv/precious").exists()


def test_what_follows_the_verb_reaches_the_program_unchanged(checkout: Checkout):
    """Words with spaces and stars arrive as they were typed, and the program runs in the caller's folder."""
    done = checkout.launch("pretrain", "nano", "--data.sources", "files:~/my novels/*.txt")
    assert done.stdout.startswith(f"ran in {checkout.bin.parent}:\n")
    assert done.stdout.endswith("<-m><train><pretrain><nano><--data.sources><files:~/my novels/*.txt>")
    assert checkout.launch("pretrain", "--help").stdout.endswith("<pretrain><--help>")
    assert checkout.launch("generate", "--help").stdout.endswith("<generate><--help>")


@pytest.mark.parametrize("verb", ["slurm", "gke", "k8s", "tpu-vm", "sky"])
def test_an_engine_gets_its_own_options_and_the_command_after_them(checkout: Checkout, verb: str):
    done = checkout.launch(verb, "--nodes", "2", "--", "pretrain", "my recipe.py")
    assert done.stdout.endswith(f"<-m><train><{verb}><--nodes><2><--><pretrain><my recipe.py>")


@pytest.mark.parametrize("verb", ["generate", "look", "serve"])
def test_generate_look_and_serve_without_a_run_take_the_newest(checkout: Checkout, verb: str):
    """No run at all is one line; then the newest folder with a model.json is put first; a named run is left alone."""
    assert_one_line(checkout.launch(verb), "./launch.sh pretrain")
    for age, name in enumerate(("new run", "old")):
        run = checkout.root / "runs" / name
        run.mkdir(parents=True)
        (run / "model.json").touch()
        os.utime(run, (1e9 - age, 1e9 - age))
    (checkout.root / "runs/unfinished").mkdir()
    done = checkout.launch(verb, "--prompt", "Once upon")
    assert done.stdout.endswith(f"<{verb}><{checkout.root}/runs/new run><--prompt><Once upon>")
    assert checkout.launch(verb, "elsewhere").stdout.endswith(f"<{verb}><elsewhere>")
