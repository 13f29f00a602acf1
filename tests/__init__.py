"""A package, so that `python -m tests.damage` finds this folder: a dependency installs one of the same name."""
