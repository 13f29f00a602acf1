"""Fine-tuning SmolLM2-135M here and by transformers and PEFT, in turn: tokens a second, memory, losses step by step.

    python -m tests.campaigns.tuning_beside_peft GGUF OURS THEIRS [--blocks 5] [--cases lora-float32 ...] [--json FILE]

OURS and THEIRS are Python interpreters: this project's, and one with torch, transformers and peft. Both sides start
from the same dequantised float32 weights and the same adapter, and take the same rows in the same order with the same
AdamW; they run as processes of their own on the same two cores, a block of steps each in turn. The exit status is 1
where losses differ by more than 1 %. Axes: I steps  B batch  T position.
"""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

B, T = 4, 256
RATES = {"full": 2e-5, "lora": 2e-4}
BETAS, WEIGHT_DECAY, CLIP = (0.9, 0.999), 0.1, 1.0
RANK, ALPHA = 8, 16
CASES = {  # what both sides train, and in what: ours, and theirs one or two ways
    f"{what}-{dtype}": (what, dtype, theirs)
    for what in RATES
    for dtype, theirs in (("float32", ("float32",)), ("bfloat16", ("autocast", "bfloat16")))
}
TEXTS = sorted((Path(__file__).parents[2] / "docs").glob("*.md"))
ALLOWED = 0.01  # relative difference of two losses of a step

Step = Callable[[np.ndarray, np.ndarray], float]  # (tokens_BT, learned_BT: 1 where a token is to be predicted) -> loss


class Side(NamedTuple):
    """One process that trains."""

    name: str
    process: "subprocess.Popen[str]"

    def ask(self, word: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.heard()

    def heard(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with status {self.process.wait()}; what it said is above")
        return json.loads(line)


def prepare(gguf: Path, folder: Path, steps: int) -> None:
    """Writes what both sides read: `base` and `adapter` in the layouts of Hugging Face and PEFT, rows.npz."""
    import dataclasses

    import jax

    import gptjax
    from gptjax.config import Lora
    from gptjax.exchange.export import export
    from gptjax.exchange.peft_adapter import write_adapter
    from gptjax.nn import lora
    from gptjax.nn.fingerprint import fingerprint

    model = gptjax.load(gguf)
    export(model, folder / "base")
    config = dataclasses.replace(model.config, lora=Lora(rank=RANK, alpha=ALPHA))
    adapters = lora.fresh(config, jax.random.key(0))
    write_adapter(folder / "adapter", adapters, config, fingerprint(model.params, model.config))
    ids, learned = [], []
    for number, text in enumerate("\n".join(path.read_text(encoding="utf-8") for path in TEXTS).split("\n\n")):
        own = model.encode_prompt(text + "\n\n")
        ids += own
        learned += [number % 2] * len(own)  # as if every second paragraph were a reply
    size = steps * B * T
    assert len(ids) >= size, f"{len(ids)} tokens of text, {size} are needed"
    tokens, learned = (np.array(values[:size], np.int32).reshape(steps, B, T) for values in (ids, learned))
    learned[:, :, 0] = 0  # nothing stands before it
    np.savez(folder / "rows.npz", tokens=tokens, learned=learned)


def our_step(folder: Path, what: str, dtype: str, steps: int) -> Step:
    """The train step of a run, which has `lora` and `frozen` as a fine-tuning recipe has them."""
    import dataclasses

    import jax
    import jax.numpy as jnp

    import gptjax
    from gptjax.batch import text_batch
    from gptjax.config import Lora
    from gptjax.exchange.peft_adapter import read_adapter
    from gptjax.nn.lora import with_adapters
    from gptjax.nn.model import Transformer
    from gptjax.sharding import make_mesh
    from train.objectives import causal_only
    from train.recipe import OptimizerSpec
    from train.step import abstract_state, make_train_step
    from train.updates.optimizer import cooldown_start

    loaded = gptjax.load(folder / "base")
    config, params = dataclasses.replace(loaded.config, T=T), loaded.params
    del loaded
    if what == "lora":
        config = dataclasses.replace(config, lora=Lora(rank=RANK, alpha=ALPHA))
        params = with_adapters(params, read_adapter(folder / "adapter", config).leaves)
    spec = OptimizerSpec(
        learning_rate=RATES[what], schedule="constant", warmup=0, beta1=BETAS[0], beta2=BETAS[1], clip=CLIP,
        weight_decay=WEIGHT_DECAY, frozen=((".*_lora_[ab]", 0.0), (".*", 1.0)) if what == "lora" else ((".*", 0.0),),
    )  # fmt: skip
    loss_spec = causal_only()
    loss_spec = loss_spec._replace(terms=tuple(term._replace(sparse=True) for term in loss_spec.terms))
    mesh = make_mesh(devices=jax.devices()[:1])
    model = Transformer(config, jnp.dtype(dtype), unroll=config.L)
    stop = np.zeros(1, np.int32)
    with jax.set_mesh(mesh):
        abstract, _ = abstract_state(model.clone(unroll=1), spec, loss_spec, steps, mesh, seed=0)
        step = make_train_step(model, spec, loss_spec, steps, abstract, mesh, B, seed=0)
        fresh = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract._replace(params=None))
        state = fresh._replace(params=params, cooldown=jnp.int32(cooldown_start(spec, steps)))
        state = jax.device_put(state, jax.tree.map(lambda leaf: leaf.sharding, abstract))
    del params, fresh

    def run(tokens_BT: np.ndarray, learned_BT: np.ndarray) -> float:
        nonlocal state
        shifted = [np.pad(array[:, 1:], ((0, 0), (0, 1))) for array in (tokens_BT, learned_BT)]
        one_BT, place_BT = np.ones_like(tokens_BT), np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
        batch = text_batch(tokens_BT, shifted[0], shifted[1].astype(np.float32), one_BT, one_BT, place_BT, one_BT < 0)
        with jax.set_mesh(mesh):
            state, metrics = step(state, type(batch)(*(array[None] for array in batch)), stop)
            return float(metrics["loss"])

    return run


def their_step(folder: Path, what: str, dtype: str, steps: int) -> Step:
    """A plain loop over transformers' loss, with the fused AdamW that its Trainer has."""
    import torch
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    kept = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder / "base", dtype=kept)
    if what == "lora":
        import peft

        model = peft.PeftModel.from_pretrained(model, folder / "adapter", is_trainable=True)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=RATES[what], betas=BETAS, fused=True)

    def run(tokens_BT: np.ndarray, learned_BT: np.ndarray) -> float:
        tokens = torch.from_numpy(tokens_BT).long()
        labels = torch.where(torch.from_numpy(learned_BT) > 0, tokens, -100)
        with torch.autocast("cpu", torch.bfloat16) if dtype == "autocast" else contextlib.nullcontext():
            loss = model(input_ids=tokens, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return run


def work(side: str, folder: Path, what: str, dtype: str) -> None:
    """One side: a step to get warm, then so many as are asked for, each line of answers JSON."""
    answers = os.fdopen(os.dup(1), "w")  # whatever libraries print goes elsewhere
    os.dup2(2, 1)
    rows = np.load(folder / "rows.npz")
    step = {"ours": our_step, "theirs": their_step}[side](folder, what, dtype, len(rows["tokens"]))
    number, losses = 0, []

    def steps(count: int) -> None:
        nonlocal number
        for _ in range(count):
            losses.append(step(rows["tokens"][number], rows["learned"][number]))
            number += 1

    def answer(**found: Any) -> None:
        print(json.dumps(found), file=answers, flush=True)

    steps(1)
    whole = peak()
    Path("/proc/self/clear_refs").write_text("5")  # the peak of loading and compiling does not count as one of stepping
    answer(ready=True)
    for line in sys.stdin:
        before, used = time.perf_counter(), processor_seconds()
        steps(int(line))
        answer(
            seconds=time.perf_counter() - before, processor=processor_seconds() - used,
            losses=losses, peak=max(peak(), whole), stepping=peak(),
        )  # fmt: skip


def peak() -> int:
    """The most bytes that this process has held in memory, since it was last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def compare(case: str, folder: Path, pythons: dict[str, str], blocks: int, block: int) -> list[dict[str, Any]]:
    """Both sides of a case in turn; one record a side, ours first."""
    what, dtype, others = CASES[case]
    threads = str(len(os.sched_getaffinity(0)))
    environment = os.environ | {"OMP_NUM_THREADS": threads, "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
    sides = []
    for side, how in (("ours", dtype), *(("theirs", other) for other in others)):
        command = [pythons[side], "-m", "tests.campaigns.tuning_beside_peft", "work", side, str(folder), what, how]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        sides.append(Side(f"{side}, {how}", subprocess.Popen(command, env=environment, **pipes)))
        sides[-1].heard()  # one after another: they would slow each other's start
    found: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
    for number in range(blocks):
        for side in sides if number % 2 else sides[::-1]:
            found[side.name].append(side.ask(str(block)))
    for side in sides:
        assert side.process.stdin is not None
        side.process.stdin.close()
        side.process.wait()
    records = []
    ours = found[sides[0].name]
    for name, turns in found.items():
        seconds, processor = (np.array([turn[key] for turn in turns]) for key in ("seconds", "processor"))
        our_seconds, our_processor = (np.array([turn[key] for turn in ours]) for key in ("seconds", "processor"))
        apart = np.abs(np.divide(ours[-1]["losses"], turns[-1]["losses"]) - 1)
        records.append({
            "case": case, "side": name, "tokens_per_second": float(block * B * T / np.median(seconds)),
            "our_speed": float(np.median(seconds / our_seconds)),
            "our_speed_by_processor": float(np.median(processor / our_processor)),
            "processor_seconds_per_step": float(np.median(processor) / block),
            "peak": turns[-1]["peak"], "peak_stepping": turns[-1]["stepping"],
            "losses": turns[-1]["losses"], "apart": float(apart.max()),
        })  # fmt: skip
    return records


def show(record: dict[str, Any]) -> None:
    print(
        f"{record['case']:<14} {record['side']:<17} {record['tokens_per_second']:8,.0f} {record['our_speed']:6.2f} "
        f"{record['our_speed_by_processor']:6.2f} {record['peak'] / 2**30:9.2f} {record['peak_stepping'] / 2**30:9.2f} "
        f"{record['losses'][0]:8.4f} {record['losses'][-1]:8.4f} {record['apart']:8.2e}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("ours")
    parser.add_argument("theirs")
    parser.add_argument("--blocks", type=int, default=5, help="turns of each side")
    parser.add_argument("--block", type=int, default=4, help="steps of a turn")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, cores)  # the processes that it starts have them too
    records = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        steps = str(1 + asked.blocks * asked.block)
        module = [asked.ours, "-m", "tests.campaigns.tuning_beside_peft"]
        subprocess.run([*module, "prepare", asked.gguf, folder, steps], check=True)
        print(f"{B} x {T} tokens a step, cores {cores}; speed: ours over that side's, of the clock and per CPU-second")
        print(
            f"{'case':<14} {'side':<17} {'tokens/s':>8} {'speed':>6} {'CPU':>6} {'peak GiB':>9} {'stepping':>9}", end=""
        )
        print(f" {'loss':>8} {'last':>8} {'apart':>8}")
        for case in asked.cases:
            of_case = compare(case, folder, {"ours": asked.ours, "theirs": asked.theirs}, asked.blocks, asked.block)
            for record in of_case:
                show(record)
            records += of_case
    if asked.json:
        asked.json.write_text(json.dumps(records, indent=1) + "\n")
    return int(any(record["apart"] > ALLOWED for record in records))


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(sys.argv[2], Path(sys.argv[3]), *sys.argv[4:6])
    elif sys.argv[1:2] == ["prepare"]:
        prepare(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    else:
        sys.exit(main())
