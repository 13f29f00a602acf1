"""Those who wait, a queue for each client: clients take turns, and none fills all the places. For any thread."""

import threading
from collections import OrderedDict, deque


class QueueFull(Exception):  # noqa: N818  as asyncio's own is named
    """There is no place to wait; to try again later may help."""


class FairQueue[Item]:
    """`places`: so many may wait, of one client at most half of them, so that another finds a place."""

    def __init__(self, places: int):
        if places < 1:
            raise ValueError(f"queue={places}: must be at least 1")
        self._places, self._of_one = places, (places + 1) // 2
        self._lines: OrderedDict[str, deque[Item]] = OrderedDict()  # by client; the first one's turn is next
        self._size = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._size

    def put(self, client: str, item: Item) -> None:
        """Raises QueueFull."""
        with self._lock:
            own = len(self._lines.get(client, ()))
            if self._size >= self._places:
                raise QueueFull(f"the queue is full: {self._size} requests are waiting")
            if own >= self._of_one:
                raise QueueFull(f"{own} of your requests are waiting, which is as many as one client may have there")
            self._lines.setdefault(client, deque()).append(item)
            self._size += 1

    def get(self) -> Item | None:
        """Who has waited longest of the client whose turn it is; None = nobody waits."""
        with self._lock:
            if not self._lines:
                return None
            client, line = self._lines.popitem(last=False)
            item = line.popleft()
            if line:
                self._lines[client] = line
            self._size -= 1
            return item

    def remove(self, client: str, item: Item) -> bool:
        """Whether it was waiting, which it is no more."""
        with self._lock:
            line = self._lines.get(client, deque())
            if item not in line:
                return False
            line.remove(item)
            if not line:
                del self._lines[client]
            self._size -= 1
            return True
