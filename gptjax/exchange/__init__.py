"""Models in other people's files: Hugging Face folders, read and written, and GGUF, read."""
