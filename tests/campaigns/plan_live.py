"""`./launch.sh plan` beside the TPU's compiler: `python -m tests.campaigns.plan_live [state|ranks]`. Needs no chip.

state: the arithmetic of the state beside what the compiler says that a step is given, of ten configurations, small ones
first; and the arithmetic of the whole memory beside the compiler's peak.
ranks: of three configurations, every candidate that fits is compiled; the suggestion beside the fastest of them.
"""

import os
import shlex
import sys

from train.planning.plan_options import Planning
from train.recipe_words import parse

ALONE = "--objectives.rows causal_lm --compute.no-unroll"
CONFIGURATIONS = (  # settings, and chips
    ("--size nano --optimizer.name adamw --mesh.fsdp 4 --batch.rows 8", "v5e:2x2"),
    ("--size nano --optimizer.name muon --mesh.fsdp 2 --mesh.tensor 1 --batch.rows 8", "v5e:2x2"),
    ("--size mini --optimizer.name lion --mesh.fsdp 2 --mesh.tensor 2 --batch.rows 8", "v5e:2x2"),
    ("--size small --optimizer.name adafactor --mesh.fsdp 4 --batch.rows 4", "v5e:2x2"),
    ("--size small --optimizer.name adamw --optimizer.ema 0.999 --batch.rows 4", "v6e:2x2"),
    ("--size gpt2-124m --optimizer.name adamw --batch.rows 8 --batch.micro-batches 2", "v5p:2x2x1"),
    ("--size gpt2-355m --optimizer.name momentum --mesh.fsdp 8 --batch.rows 8 --compute.remat products", "v5e:2x4"),
    ("--size llama-1b --optimizer.name adamw --mesh.fsdp 4 --batch.rows 4 --compute.remat full", "v5p:2x2x1"),
    ("--size llama-1b --optimizer.name muon --mesh.fsdp 4 --mesh.tensor 4 --batch.rows 16 "
     "--compute.remat full", "v5e:4x4"),
    ("--size llama-7b --data.vocabulary 32000 --optimizer.name adamw --mesh.fsdp 16 --batch.rows 16 "
     "--compute.remat full", "v5e:4x4"),
)  # fmt: skip
SEARCHED = (
    ("--size nano --optimizer.name adamw", "v5e:2x2"),
    ("--size mini --optimizer.name muon --batch.rows 16", "v5e:2x4"),
    ("--size small --optimizer.name adamw", "v5e:2x2"),
)


def states() -> None:
    from gptjax.config import ModelConfig
    from train.planning.compiler_process import CompilerEndedError, CompilerProcess
    from train.planning.estimate import estimate

    for words, device in CONFIGURATIONS:
        recipe, machines = parse(shlex.split(f"{ALONE} {words}")), Planning(device=device).machines
        config = ModelConfig.of(recipe.model, recipe.data.vocabulary)
        about = estimate(recipe, config, machines)
        try:
            with CompilerProcess(device, 1) as compiler:
                found = compiler(recipe, config.vocabulary)
        except CompilerEndedError as ended:
            print(f"{device} {words}: the compiler gave up: {ended}", flush=True)
            continue
        state, given, peak = about.state.kept / 1e6, found.argument_bytes / 1e6, found.peak_bytes / 1e6
        print(
            f"{device} {words}: state {state:,.2f} MB, arguments {given:,.2f} MB ({state / given - 1:+.2%}); "
            f"memory ~{about.memory / 1e6:,.0f} MB, peak {peak:,.0f} MB ({about.memory / 1e6 / peak - 1:+.0%}); "
            f"~{about.compute_seconds * 1e3:,.1f} ms, cycles {found.milliseconds or 0:,.1f} ms; "
            f"compiled in {found.compile_seconds:.0f} s",
            flush=True,
        )


def ranks() -> None:
    from gptjax.config import ModelConfig
    from train.planning.compiler_process import CompilerProcess
    from train.planning.plan import plan
    from train.planning.search import answered, settings
    from train.tuning.strategies import settings_said

    for words, device in SEARCHED:
        asked = Planning(device=device)
        recipe = parse(shlex.split(f"{ALONE} {words}"))
        found = plan(asked, recipe, settings_said(shlex.split(words)), lambda _: None)
        machines, config = found.machines, ModelConfig.of(recipe.model, recipe.data.vocabulary)
        possible = [one for one in found.tried if one.fits is not False]
        with CompilerProcess(device, 1) as compiler:
            every = [one if one.compiled else answered(one, config, machines, compiler) for one in possible]
        fitting = [one for one in every if one.fits]
        best = min(fitting, key=lambda one: one.pace(machines))
        ratio = found.best.pace(machines)[0] / best.pace(machines)[0]
        print(
            f"{device} {words}: {len(found.tried)} candidates, {len(fitting)} of {len(every)} compiled fit; suggested "
            f"{settings(found.best.recipe, machines)}, fastest {settings(best.recipe, machines)}: {ratio:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"
    for part in sys.argv[1:] or ("state", "ranks"):
        {"state": states, "ranks": ranks}[part]()
