"""Two processes with a disk each and one bucket are one run: saved, killed, resumed, by two and by one."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import gptjax
from gptjax.runs.bucket_run import BucketRun, every_step
from gptjax.runs.manifest import verify
from gptjax.runs.restoring import restore, saved_shapes
from tests.loopback_store import Fault, everyday_store, failing
from tests.tiny_recipe import write_text

STORE = everyday_store()
ROOT = Path(__file__).parents[2]
RECIPE = (
    "pretrain", "laptop", "--model.T", "32", "--model.D", "32", "--model.L", "2", "--model.N", "4", "--model.K", "2",
    "--model.F", "48", "--batch.rows", "8", "--checkpoint.every", "4", "--checkpoint.keep", "2", "--validation.every",
    "100", "--validation.rows", "4", "--validation.final-rows", "4", "--samples", "0", "--compute.no-unroll",
    "--steps", "100000", "--optimizer.schedule", "constant",
    "--data.tokenizer", "characters", "--data.vocabulary", "400", "--data.validation", "tail 0.1",
    "--mesh.fsdp", "4",
)  # fmt: skip


def start(folder: Path, url: str, stop: int, processes: int = 2, caches=("zero", "one"), more=()):
    """The processes of a start of a run, which ends after so many steps."""
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    running = []
    for number in range(processes):
        environment = {
            **os.environ, **STORE.environment, "GPTJAX_CACHE": str(folder / caches[number]),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={4 // processes}", "GPTJAX_JOIN_SECONDS": "300",
        }  # fmt: skip
        if processes > 1:
            environment |= {
                "JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_PROCESS_COUNT": "2", "JAX_PROCESS_ID": str(number),
            }  # fmt: skip
        data = ("--data.prepared", f"s3://{url.split(chr(47))[2]}/prepared", "--data.sources")
        command = [sys.executable, "-m", "train", *RECIPE, *data, f"files:{folder / 'one.txt'}", "--run", url]
        with (folder / f"output-{number}").open("wb") as output:
            command += ["--stop.step", str(stop), *more]
            running.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output))
    return running


def said(folder: Path) -> str:
    return "\n".join(path.read_text(errors="replace") for path in sorted(folder.glob("output-*")))


def codes(running, folder: Path) -> list[int]:
    try:
        return [process.wait(300) for process in running]
    except subprocess.TimeoutExpired:
        raise AssertionError(said(folder)) from None
    finally:
        for process in running:
            process.kill()


def params(url: str, step: int):
    run = every_step(url)
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = saved_shapes(run, step, "params")
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one), shapes)
    return restore(run, step, "params", wanted)


@pytest.mark.slow
def test_killed_and_resumed_it_ends_as_the_run_that_was_not_and_is_a_plain_run_on_the_bucket(tmp_path, monkeypatch):
    """One of two processes is killed after step 4; both go on to 8, and then one goes on alone, on as many devices."""
    monkeypatch.setenv("GPTJAX_CACHE", str(tmp_path / "reader"))
    write_text(tmp_path)
    straight, killed = (f"s3://{STORE.bucket()}/runs/{name}" for name in ("straight", "killed"))
    assert codes(start(tmp_path, straight, 8), tmp_path) == [0, 0], said(tmp_path)
    running = start(tmp_path, killed, 90000)
    bucket, until = killed.split("/")[2], time.monotonic() + 200
    while not any(key.endswith("checkpoints/4/manifest.json") for key in STORE.keys(bucket)):
        assert time.monotonic() < until, said(tmp_path)
        assert running[1].poll() is None, said(tmp_path)
        time.sleep(0.02)
    running[1].send_signal(signal.SIGKILL)
    assert codes(running, tmp_path) == [70, -9], said(tmp_path)
    assert "process 1 (pid" in said(tmp_path)
    newest = BucketRun(every_step(killed)).steps()[-1]
    end = newest + 4
    assert codes(start(tmp_path, killed, end), tmp_path) == [0, 0], said(tmp_path)
    assert f"continuing from step {newest}" in said(tmp_path)
    verify(every_step(killed), end)
    assert gptjax.load(killed).step == end
    if end > 8:
        assert codes(start(tmp_path, straight, end), tmp_path) == [0, 0], said(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, params(straight, end), params(killed, end))
    assert codes(start(tmp_path, killed, end + 4, processes=1, caches=("alone",)), tmp_path) == [0], said(tmp_path)
    assert gptjax.load(killed).step == end + 4


@pytest.mark.slow
def test_a_save_whose_pieces_one_process_cannot_send_fails_in_both_and_leaves_no_step(tmp_path):
    """Step 0 was saved before."""
    write_text(tmp_path)
    url = f"s3://{STORE.bucket()}/runs/fails"

    def fault(asked):
        own = "checkpoints/4/" in asked.key and "ocdbt.process_1" in asked.key
        return Fault(status=403) if own and asked.method == "PUT" else None

    with failing(STORE, fault):
        ended = codes(start(tmp_path, url, 8), tmp_path)
    assert all(code not in (0, 75) for code in ended), ended
    told = (tmp_path / "output-0").read_text(errors="replace")
    assert "process 1: step 4 is not saved" in " ".join(told.split()), told
    made = [key.split("/")[3] for key in STORE.keys(url.split("/")[2]) if key.endswith("/manifest.json")]
    assert made == ["0"]
