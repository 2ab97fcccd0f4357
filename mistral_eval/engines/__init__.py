"""Engines that speak text: native behind its tokenizer, lm-eval's own models, oracle, random."""
