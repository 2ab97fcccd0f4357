"""Text to token ids and back, for every format a checkpoint ships."""
