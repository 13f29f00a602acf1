"""The training program. STARTED is when it started, by time.perf_counter(): this file runs before any slow import."""

import time

STARTED = time.perf_counter()
