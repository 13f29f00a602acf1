"""SmolLM2-135M served over HTTP, in turn with llama.cpp's server and vLLM's: tokens a second, time to the first token.

    python -m tests.campaigns.serving_beside_peers GGUF [--llama PYTHON] [--vllm PYTHON FOLDER] [--dtypes bfloat16 ...]
    python -m tests.campaigns.serving_beside_peers GGUF --engine bfloat16      # our engine alone, without a server

PYTHON: an environment with xllamacpp, or with vLLM's build for the CPU. FOLDER: the same model as `gptjax export`
writes it. In every block each server is started, warmed up, asked for 1, 4 and 16 texts at once, 64 tokens in and 64
of the likeliest out, with prompts that nobody has read before, and stopped before the next one starts. A machine that
does nothing else is needed: llama.cpp's threads spin.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import gptjax
from gptjax.decoding.engine import Engine, Request
from gptjax.decoding.sampling import Sampling

STREAMS = (1, 4, 16)
TOKENS = 64
ROUNDS = 3  # in a block, of each number of streams
PORT = 8377
LLAMA = """
import time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_parallel, params.n_ctx, params.port = {gguf!r}, 16, 4096, {port}
server = xllamacpp.Server(params)
while True: time.sleep(1)
"""


@contextlib.contextmanager
def served(command: list[str], environment: dict[str, str], ready: str) -> Iterator[float]:
    """A server, once it is ready: how many seconds that took."""
    begun = time.monotonic()
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while process.poll() is None and time.monotonic() < begun + 300:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{PORT}{ready}", timeout=1):
                    break
            except OSError:
                time.sleep(0.1)
        else:
            sys.exit(f"{' '.join(command)[:200]} did not start: status {process.poll()}")
        yield time.monotonic() - begun
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait()


async def text(model: str, ids: list[int], extra: dict) -> tuple[float, int]:
    """One streamed completion: seconds to its first token, and how many came."""
    body = {"model": model, "prompt": ids, "max_tokens": TOKENS, "temperature": 0, "stream": True, **extra}
    content = json.dumps(body).encode()
    begun = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT, limit=2**20)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{PORT}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode() + content)
    first, count, seen = 0.0, 0, b""
    async for line in reader:
        seen += line if not count else b""
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if event.get("usage"):
            count = event["usage"]["completion_tokens"]
        if event.get("choices") and not first and not _opening(event):
            first = time.monotonic() - begun
    writer.close()
    if not count:
        sys.exit(f"no tokens came: {seen[:500]!r}")
    return first, count


def _opening(event: dict) -> bool:
    """Whether an event comes before any token."""
    return event["choices"][0].get("text") == "" and event["choices"][0].get("finish_reason") is None


async def at_once(model: str, count: int, draw: np.random.Generator, extra: dict) -> tuple[float, float]:
    """(tokens a second of all, median milliseconds to the first token)."""
    prompts = draw.integers(100, 40_000, (count, TOKENS)).tolist()
    begun = time.monotonic()
    found = await asyncio.gather(*(text(model, ids, extra) for ids in prompts))
    seconds = time.monotonic() - begun
    return sum(tokens for _, tokens in found) / seconds, 1000 * statistics.median(first for first, _ in found)


def engine_alone(gguf: Path, dtype: Any) -> None:
    """Prints tokens a second of the engine, which nobody asks over HTTP."""
    model = gptjax.load(gguf, dtype=dtype)
    engine, draw = Engine(model, rows=max(STREAMS), context=512), np.random.default_rng(0)
    engine.warm_up()
    settings = Sampling(tokens=TOKENS, temperature=0, logit_bias=dict.fromkeys(model.generation_config.ends, -100.0))
    for count in STREAMS:
        speeds = []
        for _ in range(ROUNDS + 1):  # the first warms up
            prompts = draw.integers(100, 40_000, (count, TOKENS)).tolist()
            begun = time.monotonic()
            asked = [Request(prompt=tuple(ids), sampling=settings) for ids in prompts]
            engine.run(asked, [lambda _: None] * count)
            speeds.append(count * TOKENS / (time.monotonic() - begun))
        print(f"engine alone, {dtype}, {count} at once: {statistics.median(speeds[1:]):.1f} tokens/s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--llama", metavar="PYTHON")
    parser.add_argument("--vllm", nargs=2, metavar=("PYTHON", "FOLDER"))
    parser.add_argument("--dtypes", nargs="*", default=["bfloat16"])
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--engine", metavar="DTYPE", help="measure the engine alone")
    asked = parser.parse_args()
    if asked.engine:
        engine_alone(asked.gguf, asked.engine)
        return
    usage = {"stream_options": {"include_usage": True}}
    never = usage | {"ignore_eos": True}
    servers = {}
    for dtype in asked.dtypes:
        command = [sys.executable, "-m", "gptjax.cli", "serve", str(asked.gguf), "--port", str(PORT), "--slots", "16"]
        command += ["--context", "512", "--dtype", dtype, "--name", "smollm2"]
        servers[f"gptjax {dtype}"] = (command, {}, "/readyz", "smollm2", usage | {"logit_bias": {"2": -100}})
    if asked.llama:
        code = LLAMA.format(gguf=str(asked.gguf), port=PORT)
        servers["llama.cpp"] = ([asked.llama, "-c", code], {}, "/health", "any", never)
    if asked.vllm:
        python, folder = asked.vllm
        command = [str(Path(python).parent / "vllm"), "serve", folder, "--dtype", "bfloat16", "--enforce-eager"]
        command += ["--max-model-len", "512", "--max-num-seqs", "16", "--port", str(PORT), "--served-model-name", "v"]
        settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "2"}
        servers["vLLM"] = (command, settings, "/health", "v", never)
    found: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    starts: dict[str, list[float]] = defaultdict(list)
    draw = np.random.default_rng(0)
    for _ in range(asked.blocks):
        for name, (command, environment, ready, model, extra) in servers.items():
            with served(command, environment, ready) as seconds:
                starts[name].append(seconds)
                asyncio.run(at_once(model, 4, draw, extra))
                for count in STREAMS:
                    for _ in range(ROUNDS):
                        found[name, count].append(asyncio.run(at_once(model, count, draw, extra)))
                speeds = [f"{statistics.median(speed for speed, _ in found[name, n]):.0f}" for n in STREAMS]
                print(f"{name}: ready after {seconds:.1f} s; {' '.join(speeds)} tokens/s so far", flush=True)
    print(f"\n{'':18}" + "".join(f"{count:>6} at once    " for count in STREAMS) + "  ready")
    for name in servers:
        cells = []
        for count in STREAMS:
            speed, first = (statistics.median(one) for one in zip(*found[name, count], strict=True))
            cells.append(f"{speed:6.0f} ({first:5.0f} ms)  ")
        print(f"{name:18}" + "".join(cells) + f"{min(starts[name]):6.1f} s")


if __name__ == "__main__":
    main()
