"""Signs of life where each process of a run has a copy of its own: JAX's coordination service carries them.

Each process has those of all others in its own folder as files, late by a heartbeat or two, so that whoever reads signs
(lease.py) reads them as on a shared file system.
"""

import contextlib
import threading
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from gptjax.files.atomic_file import write_whole
from train.supervision.lease import HEARTBEAT

KEYS = "gptjax-signs/"


class SignExchange:
    """Brings the signs of all processes to this one, and its own to all, until it is stopped."""

    def __init__(self, run: Path):
        self._folder, self._own = run / "lease", jax.process_index()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="signs", daemon=True)

    def start(self) -> None:
        """Once this returns, which it does on all processes together, each has a sign of every other."""
        self._send()
        multihost_utils.sync_global_devices("gptjax-signs")
        self._fetch()
        self._thread.start()

    def stop(self) -> None:
        """To be called before the connection between the processes ends."""
        self._ended.set()
        self._thread.join()

    def _go_on(self) -> None:
        while not self._ended.wait(HEARTBEAT):
            # a service that does not answer brings no signs: then all are silent, process 0 first
            with contextlib.suppress(OSError, jax.errors.JaxRuntimeError):
                self._send()
                self._fetch()

    def _send(self) -> None:
        client = ocp.multihost.get_jax_distributed_client()
        try:
            sign = (self._folder / f"{self._own}.json").read_text(encoding="utf-8")
        except FileNotFoundError:  # this process leaves the run
            client.key_value_delete(f"{KEYS}{self._own}")
        else:
            client.key_value_set(f"{KEYS}{self._own}", sign, allow_overwrite=True)

    def _fetch(self) -> None:
        found = dict(ocp.multihost.get_jax_distributed_client().key_value_dir_get(KEYS))
        for number in set(range(jax.process_count())) - {self._own}:
            file, sign = self._folder / f"{number}.json", found.get(f"{KEYS}{number}")
            if sign is None:
                file.unlink(missing_ok=True)
            else:
                write_whole(file, sign, sync=False)
