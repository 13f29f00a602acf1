"""Several processes as one run: they are told of each other, and must agree on what they do.

Under Slurm, Open MPI and mpi4py, on TPU VMs and on GKE, JAX finds them by itself. Elsewhere JAX_COORDINATOR_ADDRESS
(host:port of process 0), JAX_PROCESS_COUNT and JAX_PROCESS_ID describe them, and come first where they are set; without
either a process is alone. All of them see the run directory, or have a copy of it each where it lies on a bucket.
"""

import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gptjax.files.plain_json import dumps
from train.supervision.exits import MISTAKE, leave, on_abort, tell

NAMES = ("JAX_COORDINATOR_ADDRESS", "JAX_PROCESS_COUNT", "JAX_PROCESS_ID")
PATIENCE = "GPTJAX_JOIN_SECONDS"  # how long processes wait for each other
STAYS = 15.0  # seconds
TASKS = ("SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE")  # set where a launcher has started this process as one of many


class _Place(NamedTuple):
    """Which process of a run this one is."""

    address: str  # host:port of process 0
    processes: int
    process: int
    devices: list[int] | None  # those of this host that are its own; None = all, or as JAX finds


def join() -> None:
    """Joins the other processes, if there are any. Raises ValueError if one is missing, or the address is wrong."""
    given = {name: os.environ[name] for name in NAMES if name in os.environ}
    if given.get("JAX_PROCESS_COUNT") == "1":  # where a launcher always sets them
        _check_number(given.get("JAX_PROCESS_ID", "0"), "1")
        return
    if os.environ.get("SLURM_STEP_NUM_TASKS") == "1" and len(given) < len(NAMES):
        return  # also a shell of salloc, where SLURM_NTASKS counts the whole allocation
    given_wait = os.environ.get(PATIENCE, "300")
    if not given_wait.isdecimal():
        raise ValueError(f"{PATIENCE}={given_wait}: must be a whole number of seconds")
    wait = int(given_wait)
    place = _found(given, wait) or _told(given)
    if place is None or place.processes == 1:
        return
    address, count, process, devices = place
    host, _, port = address.rpartition(":")
    if process == 0:
        _check_free(address, int(port))
    else:
        _check_answers(address, host, int(port), wait)

    import jax

    jax.config.update(
        "jax_enable_preemption_service", False
    )  # else it handles SIGTERM; see train/supervision/signals.py
    waited = f"process {process} of {count} waited {wait} s at {address} for the others"
    remedy = f"start all of them within {PATIENCE}={wait} seconds"

    def give_up() -> None:
        tell(f"error: {waited}; {remedy}")
        leave(MISTAKE, sys.stdout.flush)

    try:
        with on_abort(give_up):
            jax.distributed.initialize(
                address, count, process, devices, "deactivate", initialization_timeout=wait
            )  # fmt: skip
    except Exception as error:  # of JAX's own kinds
        raise ValueError(f"{waited}: {str(error).splitlines()[0]}; {remedy}") from error


def _told(given: Mapping[str, str]) -> _Place | None:
    """What the three variables say, None where there are none."""
    if not given:
        return None
    if missing := [name for name in NAMES if name not in given]:
        raise ValueError(f"{', '.join(given)} set, but not {', '.join(missing)}: set all three, or none")
    address, count, process = (given[name] for name in NAMES)
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        raise ValueError(f"JAX_COORDINATOR_ADDRESS={address!r}: must be host:port of process 0, such as node-0:8476")
    _check_number(process, count)
    return _Place(address, int(count), int(process), None)


def _found(given: Mapping[str, str], wait: int) -> _Place | None:
    """What JAX finds out by itself, beside what is given; None where no launcher has started this process.

    Raises ValueError where there is one, and JAX cannot make out the others.
    """
    indexed = "KUBERNETES_SERVICE_HOST" in os.environ and "JOB_COMPLETION_INDEX" in os.environ
    if len(given) == len(NAMES) or not (indexed or any(name in os.environ for name in TASKS) or _on_tpu_vm()):
        return None
    own = os.environ.get("JAX_LOCAL_DEVICE_IDS")
    try:
        from jax._src.clusters import ClusterEnv  # what jax.distributed.initialize() asks, before it connects

        devices = None if own is None else [int(one) for one in own.split(",")]
        found = ClusterEnv.auto_detect_unset_distributed_params(given.get(NAMES[0]), None, None, devices, None, wait)
    except Exception as error:  # of many kinds: a metadata server that does not answer, a pod that may not ask
        raise ValueError(
            f"JAX cannot make out the other processes: {' '.join(str(error).split())}; "
            f"set {', '.join(NAMES)}, or JAX_PROCESS_COUNT=1 for a process that is alone"
        ) from error
    address, count, process, devices = found
    if address is None or count is None or process is None:
        return None
    return _Place(address, count, process, None if devices is None else list(devices))


def _on_tpu_vm() -> bool:
    """Whether this machine is one of several workers of a TPU, as far as can be known without asking for them."""
    if "," not in os.environ.get("TPU_WORKER_HOSTNAMES", ","):
        return False
    try:
        from jax._src.cloud_tpu_init import running_in_cloud_tpu_vm
    except ImportError:  # which is JAX's own affair
        return False
    return running_in_cloud_tpu_vm


def leave_failed(code: int) -> None:
    """Ends a process that has failed and said so, if it is one of several; returns where it is alone.

    JAX would have it wait for the others, which wait for it. Process 0, through which all of them are connected, stays
    until they have found out (train/supervision/peers.py).
    """
    jax = sys.modules.get("jax")
    if jax is not None and jax.distributed.is_initialized():
        if is_first():
            time.sleep(STAYS)
        leave(code, sys.stdout.flush)


def part() -> None:
    """Ends the connection between the processes of a run, all of which call this: from now on none needs another.

    Each waits for the slowest. JAX would do the same at the end of the program, for five minutes at most, and then
    abort those who waited.
    """
    import jax

    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def is_first() -> bool:
    """Whether this is the process that speaks for all."""
    jax = sys.modules.get("jax")
    if jax is not None and jax.distributed.is_initialized():
        from jax._src.distributed import global_state  # jax.process_index() would look for devices first

        return global_state.process_id == 0
    return int(os.environ.get("JAX_PROCESS_ID", "0")) == 0


def _check_number(process: str, count: str) -> None:
    if not (count.isdecimal() and process.isdecimal() and int(process) < int(count)):
        raise ValueError(
            f"JAX_PROCESS_ID={process}, JAX_PROCESS_COUNT={count}: an id runs from 0 to the count less one"
        )


def _check_free(address: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise ValueError(
                f"JAX_COORDINATOR_ADDRESS={address}: port {port} cannot be had here ({error.strerror}); use another"
            ) from error


def _check_answers(address: str, host: str, port: int, wait: int) -> None:
    """Raises ValueError unless somebody listens at the address within `wait` seconds."""
    until = time.monotonic() + wait
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                raise ValueError(
                    f"JAX_COORDINATOR_ADDRESS={address}: nobody answered for {wait} s ({error}); "
                    "is it the address of process 0, is process 0 running, is the port open?"
                ) from error
            time.sleep(0.5)


def gathered(own: Any) -> list[Any]:
    """What every process says, as JSON, in order; each of them calls this."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return [own]
    said = np.frombuffer(dumps(own, default=str).encode(), np.uint8)
    longest = int(np.max(multihost_utils.process_allgather(np.int32(len(said)))))
    padded = np.pad(said, (0, longest - len(said)), constant_values=ord(" "))
    return [json.loads(bytes(row)) for row in np.asarray(multihost_utils.process_allgather(padded))]


def everywhere(act: Callable[[], object]) -> None:
    """Every process calls `act`; where it raises on one, every process raises."""
    raised = None
    try:
        act()
    except Exception as error:
        raised = error
    errors = gathered(None if raised is None else str(raised))
    if raised is not None:
        raise raised
    for number, error in enumerate(errors):
        if error is not None:
            raise ValueError(f"process {number}: {error}")


def are_apart(folder: Path) -> bool:
    """Whether each process has a folder of this path of its own; False where all have the same, or one is alone.

    Raises ValueError, on every process, where some have the same and others do not.
    """
    import jax

    if jax.process_count() == 1:
        return False
    own, token = jax.process_index(), from_first(lambda: secrets.token_hex(8))
    names = [f"{token}-{number}" for number in range(jax.process_count())]

    def mark() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / names[own]).touch()

    everywhere(mark)
    seen = gathered([number for number, name in enumerate(names) if (folder / name).exists()])
    (folder / names[own]).unlink()
    return see_each_themselves(seen, folder)


def see_each_themselves(seen: list[list[int]], folder: Path) -> bool:
    """`are_apart`, by which processes' marks each process has found."""
    if all(found == [number] for number, found in enumerate(seen)):
        return True
    if all(len(found) == len(seen) for found in seen):
        return False
    told = ", ".join(f"process {number} sees those of {found}" for number, found in enumerate(seen))
    raise ValueError(
        f"GPTJAX_CACHE: either all processes of a run on a bucket share it, or each has one of its own; in {folder} "
        f"{told}. Give each process a GPTJAX_CACHE of its own"
    )


def check_agree(facts: Mapping[str, Any]) -> None:
    """Raises ValueError on every process, field by field, where they do not all say the same."""
    found = gathered(dict(facts))
    differing = [
        f"{name}: " + ", ".join(f"process {number} has {other.get(name)!r}" for number, other in enumerate(found))
        for name in facts
        if any(other.get(name) != found[0].get(name) for other in found)
    ]
    if differing:
        raise ValueError("the processes of this run do not agree:\n  " + "\n  ".join(differing))


def from_first[Value](act: Callable[[], Value]) -> Value:
    """What `act` returns on process 0, the only one that calls it, as JSON; where it raises, every process raises."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return act()
    found, raised = {}, None
    if jax.process_index() == 0:
        try:
            found["value"] = act()
        except Exception as error:
            raised, found["error"] = error, str(error)
    said = np.frombuffer(dumps(found).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(said))))
    found = json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(np.resize(said, size)))))
    if raised is not None:
        raise raised
    if "error" in found:
        raise ValueError(f"process 0: {found['error']}")
    return found["value"]
