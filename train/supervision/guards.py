"""Who watches over a run from outside its loop."""

from typing import NamedTuple

from train.supervision.lease import Lease
from train.supervision.signals import Signals
from train.supervision.watchdog import Watchdog


class Guards(NamedTuple):
    """The answer to signals, the run's lock on its directory, and the watchdog."""

    signals: Signals
    lease: Lease
    watchdog: Watchdog
