"""Prepares text on many machines, or in several processes of this one, with Apache Beam. The bytes are the same.

    python -m data.distribute --workers 4 -- --sources chitchat wiki_leads/en --vocabulary 4096
    python -m data.distribute --shared gs://bucket/gptjax --runner DataflowRunner --project P --region R \\
        --temp_location gs://bucket/tmp --sdk_container_image IMAGE -- --sources tfds:c4/en

What follows the lone `--` is what `python -m data.prepare --help` lists. Options that are not listed here are Beam's,
and go to the runner; docs/preparation.md has those of Dataflow, Flink and Spark. The prepared folder comes to this
machine, where `./launch.sh pretrain` finds it. Killed, or bereft of a worker, start the same command again: it goes on.
"""

import dataclasses
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from data.preparation.workitems import Item
from data.prepare import prepare
from data.spec import DataSpec
from gptjax.command.console import print_any_text
from gptjax.command.options import answer_help, print_mistake, read, take
from gptjax.files.places import expanded

CHECKOUT = Path(__file__).parents[1]
WHEEL = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"
[project]
name = "gptjax-data"
version = "0"
[tool.setuptools.packages.find]
include = ["data*", "gptjax*"]
[tool.setuptools.package-data]
"*" = ["*.md", "*.bib", "*.txt"]
"""


def distribute(
    spec: DataSpec, runner: str, workers: int, shared: epath.Path | None, beam_options: Sequence[str]
) -> Path:
    """The folder of prepared documents for a spec, as of `data.prepare`, made with a runner of Apache Beam.

    `workers` are processes of the DirectRunner, and `shared` is needed for any other runner.

    Raises ValueError if Beam is not installed, or is given options that cannot be.
    """
    if importlib.util.find_spec("apache_beam") is None:
        raise ValueError(
            "data.distribute needs Apache Beam, in an environment of its own (see docs/preparation.md): "
            "`uv venv .venv-beam && uv pip sync --python .venv-beam/bin/python requirements/beam.txt`"
        )
    import apache_beam as beam  # pyright: ignore[reportMissingImports]
    from apache_beam.options.pipeline_options import PipelineOptions  # pyright: ignore[reportMissingImports]
    from tensorflow_datasets import download

    logging.getLogger("apache_beam").setLevel(logging.ERROR)  # it warns of options of its own
    if runner == "DirectRunner":
        own = [f"--direct_num_workers={workers}", "--direct_running_mode=multi_processing"]
        threading.excepthook = _worker_died  # Beam itself would wait for the dead forever
    elif shared is None:
        raise ValueError(
            f"--runner {runner} needs --shared, a folder that all machines see: gs://..., or a mounted one"
        )
    else:
        own = [f"--extra_package={wheel(Path(tempfile.mkdtemp()))}"]
    arguments = [f"--runner={runner}", "--default_sdk_harness_log_level=WARNING", *own, *beam_options]

    def run_all(title: str, function: Callable[[Item], None], items: Sequence[Item], total: int | None) -> None:
        print(f"{title}: {len(items)} pieces, {runner}", file=sys.stderr)
        with beam.Pipeline(options=PipelineOptions(arguments)) as pipeline:
            _ = pipeline | beam.Create(items) | beam.Reshuffle() | beam.Map(function)

    download_config = download.DownloadConfig(beam_options=PipelineOptions(arguments))
    return prepare(spec, shared=shared, run_all=run_all, download_config=download_config)


def wheel(folder: Path) -> Path:
    """Makes a wheel of `data` and `gptjax` in a folder, for machines that have the packages but not the checkout."""
    project = folder / "project"
    for package in ("data", "gptjax"):
        shutil.copytree(CHECKOUT / package, project / package, ignore=shutil.ignore_patterns("__pycache__"))
    (project / "pyproject.toml").write_text(WHEEL)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(folder)], cwd=project, check=True, capture_output=True)
    (made,) = folder.glob("*.whl")
    return made


def _shared(text: str) -> epath.Path:
    """A folder of this machine, or of an object store."""
    return epath.Path(text if "://" in text else expanded(text))


def _worker_died(failed: Any) -> None:
    """Ends the program when the thread that watches over a worker fails."""
    print(f"a worker died ({failed.exc_value}); start the same command again: finished work is kept", file=sys.stderr)
    os._exit(1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runner:
    """What runs the pipeline; other options are Beam's."""

    runner: str = "DirectRunner"  # DirectRunner (this machine), DataflowRunner, ...
    workers: int = os.cpu_count() or 1  # processes of the DirectRunner
    shared: str | None = None  # folder for records and results that all machines see


def main(arguments: Sequence[str]) -> int:
    """`python -m data.distribute`: prepares, and prints the folder."""
    print_any_text()
    program, ours, of_data = "python -m data.distribute", list(arguments), []
    if "--" in ours:
        ours, of_data = ours[: ours.index("--")], ours[ours.index("--") + 1 :]
    try:
        answer_help(Runner, ours, program, about=__doc__)
        runner, of_beam = take(Runner, ours)
        spec = read(DataSpec, of_data, f"{program} ... --", about=__doc__)
        shared = None if runner.shared is None else _shared(runner.shared)
        print(distribute(spec, runner.runner, runner.workers, shared, of_beam))
    except (ValueError, OSError) as error:
        return print_mistake(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
