"""Compute logits from token ids: a Mistral in plain torch, its loaders and its tokenizers."""
