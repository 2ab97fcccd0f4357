"""Answer requests in token ids; this room knows nothing of text, tasks or lm-eval."""
