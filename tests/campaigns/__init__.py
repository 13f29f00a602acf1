"""Programs that try much, take minutes and print a table: `python -m tests.campaigns.NAME`."""
