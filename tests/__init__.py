"""A package, so that `python -m tests.campaigns.NAME` finds this folder: a dependency installs one of that name."""
