"""Reading a checkpoint: files, configuration, weights."""
