"""Load a checkpoint: files, configuration, weights."""
