"""A run, from its settings to its folder: questions, answering, judging and results."""
