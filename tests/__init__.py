"""A package, so that `python -m tests.damage` finds this folder: some dependency installs a package of the same name."""
