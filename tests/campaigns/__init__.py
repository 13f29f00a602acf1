"""Programs that take minutes: worth running before a release, `python -m tests.campaigns.NAME`."""
