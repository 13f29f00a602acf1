"""How the API behaves, wherever it listens."""

import dataclasses

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """`name`: what clients call the model.

    `keys`: every request must bear one of them; () = nobody needs a key. `hosts`: names that the Host header may have,
    without the port; None = any. A page of a stranger that has its own name point to this machine has another, so
    where there are no keys, only names of this machine should be allowed.
    """

    name: str
    keys: tuple[str, ...] = ()
    hosts: frozenset[str] | None = LOOPBACK
    body_bytes: int = 2 * 2**20
    body_seconds: float = 30.0  # for all of a request's body to come
    requests: int = 1000  # under way at once, those that wait for a slot among them
