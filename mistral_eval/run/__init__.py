"""lm-eval's tasks, run question by question through our engines; a run from settings to folder."""
