"""What `./launch.sh plan` is asked. Imports neither JAX nor TensorFlow."""

import dataclasses
import math
from pathlib import Path

from gptjax.files.places import expanded
from train.planning.chips import Machines, machines


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planning:
    """say of a run, before anything runs: does it fit, how long, what price"""

    device: str | None = None  # needed: chips and their number: v5p:4x4x8, v5e-256, h100:8, h100:8x4 (4 nodes of 8)
    slices: int = 1  # slices of TPUs, joined by the data centre's network
    tokens: float | None = None  # tokens that are read in all, such as 140e9; None = those of the recipe's steps
    price: float | None = None  # of a chip for an hour, in any currency; None = chip hours alone
    json: Path | None = None  # a file to write what was found, for scripts

    def __post_init__(self):
        for name in ("tokens", "price"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"--{name} {value:g}: must be a number above 0")
        if self.json is not None and not expanded(self.json).absolute().parent.is_dir():
            raise ValueError(f"--json {self.json}: there is no folder {expanded(self.json).parent}; make it first")

    @property
    def machines(self) -> Machines:
        """Raises ValueError for what there is not."""
        if self.device is None:
            raise ValueError("plan: say on which chips, with --device v5p:4x4x8 or --device h100:8x4")
        return machines(self.device, self.slices)
