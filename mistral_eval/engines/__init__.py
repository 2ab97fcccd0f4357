"""Engines, their interface, and the adapter to lm-eval."""
