"""Reply -> verdict: pure functions on text, no torch, no lm-eval."""
