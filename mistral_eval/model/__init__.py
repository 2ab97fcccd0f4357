"""Ids -> logits: a Mistral in plain torch; knows nothing of text, tasks or lm-eval."""
