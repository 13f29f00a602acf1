"""Where modules of the library were before they had rooms: the old names still import, with a DeprecationWarning."""

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from types import ModuleType
from typing import Any

ROOMS = {
    "decoding": ("decode", "sampling"),
    "evaluation": ("answers", "evaluate", "items"),
    "inference": (
        "chat",
        "class_scoring",
        "scoring",
        "template",
        "text_likelihood",
    ),
    "nn": ("attention", "class_heads", "kernels", "likelihood", "linear", "model"),
    "runs": ("checkpoint", "manifest", "rundir"),
    "text": ("sentencepiece_model", "tokenizer"),
}
NEW_NAMES = {f"gptjax.{name}": f"gptjax.{room}.{name}" for room, names in ROOMS.items() for name in names} | {
    "gptjax.generate": "gptjax.inference.language_model",
    "gptjax.habits": "gptjax.inference.generation_config",
    "gptjax.inference.decode": "gptjax.decoding.decode",
    "gptjax.inference.sampling": "gptjax.decoding.sampling",
}


class OldNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes a module of an old name, which has what the module of the new one has."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, self) if fullname in NEW_NAMES else None

    def exec_module(self, module: ModuleType) -> None:
        new = NEW_NAMES[module.__name__]
        warnings.warn(f"{module.__name__} is now {new}", DeprecationWarning, stacklevel=2)
        there = vars(importlib.import_module(new))
        vars(module).update({name: value for name, value in there.items() if not name.startswith("__")})


def install() -> None:
    """From now on the old names import; last of all finders, so that a file of such a name comes first."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.append(OldNames())
