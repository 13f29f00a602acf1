"""`gptjax serve`. What can be refused is refused before JAX is imported and the model is loaded."""

import dataclasses
import importlib
import ipaddress
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

import gptjax
from gptjax.command.compiled import keep_compiled
from gptjax.command.verb import Verb
from gptjax.files.bounded_files import naming, read_text
from gptjax.files.places import expanded
from gptjax.runs.rundir import read_run

if TYPE_CHECKING:
    from gptjax.inference.language_model import LanguageModel

NEEDED = ("httptools", "llguidance", "prometheus_client", "starlette", "uvicorn")
KEY_FILE_BYTES = 2**20
SHORTEST_KEY = 16  # characters


@dataclasses.dataclass(frozen=True, kw_only=True)
class Serve(Verb):
    """Serve a model: a chat page, and an API for any client of OpenAI's.

    The page is at /, the API at /v1. The port opens when all programs are compiled; SIGTERM or Ctrl-C finishes what is
    under way, and a second one does not.

      gptjax serve runs/first
      gptjax serve exported --port 9000 --slots 16 --api-key-file keys.txt
      gptjax serve runs/first --follow
      gptjax serve runs/first --host 0.0.0.0 --api-key-file keys.txt
    """

    directory: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder of a run, folder in Hugging Face's layout, or .gguf file."""
    host: str = "127.0.0.1"
    """Address to listen at; the default is reached from this machine only, 0.0.0.0 from any."""
    port: int = 8000
    """Port to listen at; 0 = any that is free."""
    slots: int = 8
    """How many texts are written at once; more need more memory."""
    queue: int = 1024
    """How many requests may wait for a slot, of one client at most half as many; the next is refused."""
    context: int | None = None
    """Tokens of a conversation, prompt and answer, that there is room for; None = as many as the model can read."""
    name: str | None = None
    """What clients call the model; None = the name of its folder."""
    api_key_file: str | None = None
    """File of API keys, one a line; every request must then bear one of them."""
    allow_anyone: bool = False
    """Serve without keys at an address that others can reach."""
    follow: bool = False
    """Of a run that is training: look for newer checkpoints, and serve the one that --step None takes."""
    drain: float = 30.0
    """Seconds that texts under way have to end when the server is stopped."""
    step: int | None = None
    """Checkpoint of a run; None = the best so far of a run that is judged by a figure, else the newest good one."""
    weights: Literal["trained", "ema"] = "trained"
    """Those of the step itself, or their moving average, where the run kept one."""
    adapter: str | None = None
    """Folder of a LoRA adapter in PEFT's layout, merged into the weights."""
    dtype: Literal["float32", "bfloat16", "int8"] | None = None
    """Of the products, or int8 of the weights alone; None = bfloat16 where this machine has instructions for it."""

    def __post_init__(self):
        if not 0 <= self.port < 2**16:
            raise ValueError(f"port={self.port}: must be from 0, which is any that is free, to 65535")
        for name in ("slots", "queue"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        if self.context is not None and self.context < 2:
            raise ValueError(f"context={self.context}: must be at least 2, for a prompt and an answer")
        if not 0 <= self.drain < float("inf"):
            raise ValueError(f"drain={self.drain}: must be 0 (cut at once) or more seconds")
        if self.follow and self.step is not None:
            raise ValueError(f"follow serves the newest checkpoint, step={self.step} this one: use one of them")

    def run(self) -> None:
        check_installed()
        keys = () if self.api_key_file is None else read_keys(expanded(self.api_key_file))
        if not keys and not self.allow_anyone and not is_loopback(self.host):
            raise ValueError(
                f"host={self.host}: others can reach this address; give keys with --api-key-file, or say --allow-anyone"
            )
        if self.follow:
            read_run(expanded(self.directory))  # only a run has checkpoints to follow
        with bound(self.host, self.port) as listening:
            keep_compiled(short=True)

            from gptjax.nn.decoding_weights import fastest_dtype

            dtype = fastest_dtype() if self.dtype is None else self.dtype
            model = self.loaded(self.step, dtype)

            from gptjax.serving.serve import serve

            code = serve(self, model, listening, keys)
        sys.exit(code)

    def loaded(self, step: int | None, dtype: str) -> "LanguageModel":
        """The model of a step, all else as it was asked for."""
        return gptjax.load(self.directory, step, weights=self.weights, dtype=dtype, adapter=self.adapter)


def check_installed() -> None:
    """Raises ValueError where a package of the extra is missing."""
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(f'serve needs more packages ({error}): run `pip install "gptjax[serve]"`') from error


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys in a file, one a line; lines that begin with # say what they are for.

    Raises ValueError where there is none, or one that cannot be sent or is easily guessed; no key is ever shown.
    """
    lines = enumerate(read_text(path, KEY_FILE_BYTES).splitlines(), start=1)
    keys = {number: line.strip() for number, line in lines if line.strip() and not line.startswith("#")}
    with naming(path):
        if not keys:
            raise ValueError("holds no key; write one a line, such as `openssl rand -hex 24` makes")
        for number, key in keys.items():
            if not key.isascii() or not key.isprintable() or " " in key:
                raise ValueError(f"line {number}: a key must be of printable ASCII characters, without spaces")
            if len(key) < SHORTEST_KEY:
                raise ValueError(f"line {number}: this key has {len(key)} characters; at least {SHORTEST_KEY} are safe")
    return tuple(keys.values())


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    addresses = [place[4][0] for place in _found(host, None)]
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in addresses)


def bound(host: str, port: int) -> socket.socket:
    """A socket that has the port and does not listen yet, so that nobody else gets it while the model is loaded."""
    family, kind, protocol, _, place = _found(host, port)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":  # there it would share the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(place)
    except OSError as error:
        sock.close()
        raise ValueError(f"port {port} of {host}: {error.strerror}; choose another with --port") from error
    return sock


def _found(host: str, port: int | None) -> list[tuple]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"host={host!r}: is no address of this machine ({error})") from error
