"""A Spec made live: build, data, training and evaluation loops. No files, no prints."""
