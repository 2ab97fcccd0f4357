"""Requests -> replies, in token ids only; knows nothing of text, tasks or lm-eval."""
