"""Rows of the test sets, wherever they come from, with fingerprints."""
