"""`python -m tests.campaigns.tuning_kills`: 20 SIGKILLs over three stages of fine-tuning, and nothing differs at last.

A small base is pretrained once. One fine-tuning run of three stages (adapters alone; every weight, with layers that
thaw on the way and an average kept; adapters again, with running text replayed) is left alone; others, by the same
command, are killed at random times and started again until they end. Then parameters, averages, adapters, moments and
row hashes of every stage are compared with the first run's, bit for bit.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gptjax.runs.manifest import steps
from tests.tiny_text import sentences
from train.lab.verify_resume import differing

ROOT = Path(__file__).resolve().parents[2]
STAGES = """
import dataclasses
from gptjax.config import Lora
from train.recipe import CheckpointSpec, ComputeSpec
from train.tuning.finetune import talk

def recipe(base):
    first = dataclasses.replace(
        talk(base), steps=16, checkpoint=CheckpointSpec(every=4, keep=2), compute=ComputeSpec(dtype="float32"),
        optimizer=dataclasses.replace(talk(base).optimizer, warmup=2), replay=0.0,
    )
    thawing = (("layers/0/.*", 1.0), ("layers/1/.*", 0.5), ("embedding", 1.0), (".*", 0.0))
    return (
        dataclasses.replace(first, lora=Lora(rank=4, dropout=0.1)),
        dataclasses.replace(first, optimizer=dataclasses.replace(first.optimizer, frozen=thawing, ema=0.9)),
        dataclasses.replace(first, lora=Lora(rank=2), replay=0.25),
    )
"""


def train(folder: Path, *words: str) -> "subprocess.Popen[bytes]":
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-P", "-m", "train", *words]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def ended(process: "subprocess.Popen[bytes]") -> None:
    _, told = process.communicate()
    if process.returncode:
        raise RuntimeError(told.decode(errors="replace")[-2000:])


def finetune(folder: Path, run: str) -> "subprocess.Popen[bytes]":
    return train(folder, "finetune", "runs/base", "--stages", "stages.py", "--run", f"runs/{run}", "--data", "t.jsonl")


def prepared(folder: Path) -> None:
    """The base, the talks and the stages."""
    (folder / "text.jsonl").write_text("".join(f"{json.dumps({'text': text})}\n" for text in sentences(3000)))
    (folder / "stages.py").write_text(STAGES)
    talks = [
        {"messages": [{"role": "user", "content": f"fox {n}?"}, {"role": "assistant", "content": f"dog {n % 7}"}]}
        for n in range(300)
    ]
    (folder / "t.jsonl").write_text("".join(f"{json.dumps(talk)}\n" for talk in talks))
    small = ["--model.T", "64", "--model.D", "64", "--model.L", "3", "--model.F", "128", "--steps", "4"]
    ended(
        train(
            folder, "pretrain", "characters", "--data.sources", "files:text.jsonl", "--run", "runs/base", *small,
            "--optimizer.warmup", "2", "--batch.rows", "4",
        )
    )  # fmt: skip


def killed(folder: Path, run: str, whole: float, draw: random.Random, most: int) -> int:
    """Kills a run at random times until it ends by itself, at most so often; returns how often."""
    kills = 0
    while True:
        process, after = finetune(folder, run), draw.uniform(0.1, 0.9) * whole
        try:
            process.wait(after if kills < most else None)
            ended(process)
            return kills
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            newest = {path.name: steps(path) for path in sorted((folder / "runs").glob(f"{run}*"))}
            print(f"kill {kills} of {run} after {after:.0f} s; saved steps: {newest}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp()) if asked.folder is None else asked.folder
    folder.mkdir(parents=True, exist_ok=True)
    prepared(folder)
    for run in ("first", "alone"):  # the first one compiles
        began = time.monotonic()
        ended(finetune(folder, run))
    whole, draw = time.monotonic() - began, random.Random(asked.seed)
    print(f"the run left alone took {whole:.0f} s", flush=True)
    kills, number, wrong = 0, 0, []
    while kills < asked.kills:
        number += 1
        kills += killed(folder, f"run{number}", whole, draw, asked.kills - kills)
        for suffix in (".stage-1", ".stage-2", ""):
            one, other = (folder / "runs" / f"{run}{suffix}" for run in ("alone", f"run{number}"))
            wrong += [f"run{number}{suffix}: {what}" for what in differing(one, other)]
    print(f"{kills} kills in {number} runs; differing: {wrong or 'nothing'}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
