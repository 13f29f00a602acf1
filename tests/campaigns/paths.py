"""`python -m tests.campaigns.paths [CASE...]`: a tiny run, from text to export, in folders and places of every kind.

Each case is a folder with a name, or a process with a user, a locale or a terminal, that somebody has. In it, text is
prepared, a run trained, resumed, reported, audited, verified, talked with, evaluated and exported. Right: every program
ends well, nothing lies outside the folder, no input has changed, and the exported weights are those of all other cases.
"""

import argparse
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pty
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.tiny_recipe import recipe
from tests.tiny_text import sentences
from train.recipe import MeshSpec, to_json

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("run", "resume", "report", "audit", "verify", "generate", "evaluate", "export", "exported")
USER = 4242  # a number that nobody has given a name
LATIN = "en_US.ISO-8859-1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A place to run in."""

    name: str
    folder: str = "folder"
    link: bool = False  # the folder is a link to one elsewhere
    mount: bool = False  # the folder is a disk of its own
    frozen: bool = False  # text and prepared folder may not be written to
    user: bool = False  # a user without a name
    environment: Mapping[str, str | None] = dataclasses.field(default_factory=dict)  # None = not set
    columns: int | None = None  # of a terminal; None = there is none


CASES = (
    Case(name="plain"),
    Case(name="brackets", folder="exp[1]"),
    Case(name="star and question mark", folder="a*b?"),
    Case(name="spaces", folder=" two  spaces "),
    Case(name="quotes", folder='it\'s "so" `called`'),
    Case(name="per cent", folder="100%20%s"),
    Case(name="dollar", folder="$HOME ${x}"),
    Case(name="backslash", folder="back\\slash\\"),
    Case(name="Chinese", folder="训练运行"),
    Case(name="emoji", folder="🦊👩‍👩‍👧"),
    Case(name="trailing dot", folder="dot."),
    Case(name="tilde", folder="~"),
    Case(name="equals and colon", folder="a=3:b,c;d&e"),
    Case(name="markup", folder="[bold]x[red]"),
    Case(name="200 characters", folder="n" * 200),
    Case(name="behind a link", link=True),
    Case(name="on a mount", mount=True),
    Case(name="read-only inputs", frozen=True, user=True),
    Case(name="no HOME", environment={"HOME": None, "XDG_CACHE_HOME": None}),
    Case(name="uid 4242, no HOME", user=True, environment={"HOME": None, "XDG_CACHE_HOME": None}),
    Case(name="uid 4242, HOME=/", user=True, environment={"HOME": "/", "XDG_CACHE_HOME": None}),
    Case(name="C locale", environment={"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}),
    Case(name="C locale, Chinese", folder="训练", environment={"LC_ALL": "C"}),
    Case(name="ISO-8859-1 locale", environment={"LC_ALL": LATIN, "PYTHONUTF8": "0"}),
    Case(name="terminal of 40 columns", columns=40),
    Case(name="terminal, ISO-8859-1", columns=80, environment={"LC_ALL": LATIN, "PYTHONUTF8": "0"}),
)


class Skipped(Exception):  # noqa: N818  nothing is wrong
    """A case that this machine or this user cannot make."""


class Campaign:
    """Cases within one folder, which holds nothing else but what all of them share."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._shared = folder / "shared"
        self._shared.mkdir()
        self.weights: dict[str, str] = {}  # what each case exported

    def wrong(self, case: Case) -> Iterator[str]:
        """What went wrong in a case: a line each. Raises Skipped."""
        if case.user and (os.getuid() != 0 or shutil.which("setpriv") is None):
            raise Skipped("only root can be another user, with setpriv")
        outer = self._folder / f"case-{len(self.weights):02}-{time.monotonic_ns()}"
        outer.mkdir()
        outer.chmod(0o755)
        with self._made(case, outer) as folder:
            inputs = self._inputs(case, folder)
            yield from self._stages(case, folder)
            if (after := listing(folder / "text")) != inputs:
                yield f"the text folder holds {after}, it held {inputs}"
            if (left := sorted(path.name for path in outer.iterdir())) != sorted({case.folder, *self._beside(case)}):
                yield f"beside the folder lies {left}"
            found = folder / "exported" / "model.safetensors"
            if found.is_file():
                self.weights[case.name] = hashlib.sha256(found.read_bytes()).hexdigest()
                if len(set(self.weights.values())) > 1 and self.weights[case.name] != next(iter(self.weights.values())):
                    yield "the exported weights are not those of the first case"

    @staticmethod
    def _beside(case: Case) -> tuple[str, ...]:
        return ("elsewhere",) if case.link else ()

    @contextlib.contextmanager
    def _made(self, case: Case, outer: Path) -> Iterator[Path]:
        """The folder of a case; it is deleted afterwards."""
        folder = outer / case.folder
        if case.link:
            (outer / "elsewhere").mkdir()
            folder.symlink_to("elsewhere")
        else:
            folder.mkdir()
        if case.mount:
            command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
            if subprocess.run(command, capture_output=True, check=False).returncode:
                raise Skipped("this user may not mount a tmpfs")
        try:
            yield folder
        finally:
            if case.mount:
                subprocess.run(["umount", str(folder)], check=True)
            shutil.rmtree(outer)

    def _inputs(self, case: Case, folder: Path) -> list[str]:
        """Writes the text and the recipe; returns what the text folder holds."""
        text = folder / "text"
        text.mkdir()
        for number in range(2):
            lines = [sentence.replace("fox", "狐狸 é") for sentence in sentences(250, number)]
            (text / f"{number}.txt").write_text("".join(lines), encoding="utf-8")
        base = recipe(text, "run")
        names = tuple(f"files:{text / f'{number}.txt'}" for number in range(2))
        data = dataclasses.replace(base.data, sources=names, prepared=folder / "prepared")
        tiny = dataclasses.replace(
            base, data=data, mesh=MeshSpec(), steps=4, samples=1, run=folder / "run",
            optimizer=dataclasses.replace(base.optimizer, warmup=1),
        )  # fmt: skip
        (folder / "recipe.json").write_text(to_json(tiny), encoding="utf-8")
        if case.frozen:
            from data.prepare import prepare

            prepare(data)
        elif case.user:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, USER, USER)
        if case.frozen:
            (folder / "run").mkdir()
            for name in ("run", "results"):
                (folder / name).mkdir(exist_ok=True)
                os.chown(folder / name, USER, USER)
            folder.chmod(0o1777)  # for the export
        return listing(text)

    def _stages(self, case: Case, folder: Path) -> Iterator[str]:
        """Runs the programs of a case, all in one process of their own."""
        run, exported, results = str(folder / "run"), str(folder / "exported"), str(folder / "results")
        words = {
            "run": ["pretrain", str(folder / "recipe.json"), "--stop.step", "2"],
            "resume": ["pretrain", str(folder / "recipe.json")],
            "report": ["report", run],
            "audit": ["audit", run],
            "verify": ["checkpoint", "verify", run],
            "generate": ["generate", run, "--prompt", "the fox", "--tokens", "8"],
            "evaluate": ["evaluate", run, "perplexity", str(folder / "text" / "0.txt"), f"--out={results}"],
            "export": ["export", run, exported],
            "exported": ["generate", exported, "--prompt", "the fox", "--tokens", "8"],
        }
        codes, said = self._ran(case, json.dumps(words), folder)
        for stage in STAGES:
            code = codes.get(stage, "never came")
            if code != 0:
                after = said.partition(f"== {stage} ==")[2].partition("\n== ")[0]
                yield f"{stage}: exit status {code}: {' '.join(after.split())[-400:]}"
        if "Traceback (most recent call last)" in said:
            yield f"a traceback: {said.partition('Traceback (most recent call last)')[2][-600:]}"

    def _ran(self, case: Case, words: str, folder: Path) -> tuple[dict[str, int], str]:
        """The exit status of each program, and all that they said."""
        codes = self._shared / "codes"
        codes.write_text("")
        codes.chmod(0o666)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
        environment |= {"JAX_COMPILATION_CACHE_DIR": str(self._shared / "compiled"), "LOCPATH": self._locales()}
        for name, value in case.environment.items():
            environment.pop(name, None)
            environment |= {} if value is None else {name: value}
        if "HOME" in case.environment:
            del environment["JAX_COMPILATION_CACHE_DIR"]  # the program is to find a place by itself
        if environment.get("LC_ALL") != LATIN:
            del environment["LOCPATH"]
        command = [sys.executable, "-P", "-m", "tests.campaigns.paths", "--inside", words, str(codes)]
        if case.user:  # who may read all, so that he finds the interpreter, and write only what is his
            rights = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
            command = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *rights, *command]
        said = spoken(command, environment, folder, case.columns)
        lines = (line.split("=") for line in codes.read_text().splitlines())
        return {stage: int(code) for stage, code in lines}, said

    def _locales(self) -> str:
        """A folder with a Latin-1 locale; "" where none can be made."""
        folder = self._shared / "locales"
        if not folder.exists():
            folder.mkdir()
            command = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(folder / LATIN)]
            with contextlib.suppress(OSError):
                subprocess.run(command, capture_output=True, check=False)
        return str(folder)


def listing(folder: Path) -> list[str]:
    """Every file within, and what it holds."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:8]}" for path in files]


def spoken(command: list[str], environment: Mapping[str, str], folder: Path, columns: int | None) -> str:
    """What a command says, to a pipe or to a terminal of so many columns."""
    if columns is None:
        done = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        return done.stdout.decode("utf-8", errors="replace")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        command, cwd=folder, env={**environment, "TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # EIO: nobody has the terminal open any more
        while piece := os.read(ours, 1 << 16):
            said += piece
    os.close(ours)
    process.wait()
    return said.decode("utf-8", errors="replace")


def inside(words: str, codes: Path) -> None:
    """Runs the programs one after another, as their entry points do, and notes how each ended."""
    from gptjax import cli
    from train.__main__ import main as train

    for stage, arguments in json.loads(words).items():
        print(f"\n== {stage} ==", flush=True)
        try:
            if arguments[0] in cli.VERBS:
                sys.argv = ["gptjax", *arguments]
                code = cli.main() or 0
            else:
                code = train(arguments)
                if stage == "run" and code == 0 and not (Path("run") / "checkpoints" / "2").is_dir():
                    code = 1
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 70
        with codes.open("a", encoding="ascii") as file:
            file.write(f"{stage}={code}\n")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(case.name for case in CASES)}")
    given = arguments.parse_args()
    known = {case.name: case for case in CASES}
    if missing := [name for name in given.cases if name not in known]:
        raise SystemExit(f"no case {missing}")
    wanted = [known[name] for name in given.cases or known]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    console, table = Console(), Table("case", "seconds", "outcome", title=f"{len(wanted)} places")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="paths-campaign-") as scratch:
        os.chmod(scratch, 0o755)
        campaign = Campaign(Path(scratch))
        for number, case in enumerate(wanted, start=1):
            began = time.monotonic()
            try:
                wrong = list(campaign.wrong(case))
                outcome = "right" if not wrong else "; ".join(wrong)
            except Skipped as skipped:
                wrong, outcome = [], f"skipped: {skipped}"
            failed += bool(wrong)
            seconds = f"{time.monotonic() - began:.0f}"
            console.print(f"{number:2} of {len(wanted)}  {case.name}, {seconds} s: {outcome}", markup=False)
            table.add_row(case.name, seconds, outcome if not wrong else f"{len(wrong)} wrong")
    console.print(table)
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2], Path(sys.argv[3]))
    else:
        sys.exit(main())
