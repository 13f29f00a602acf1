"""Who reads again what was written, and shares nothing with what wrote it. Does not import JAX."""
