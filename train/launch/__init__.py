"""Runs on clusters: what a command becomes there, by engines that people have. A file an engine."""
