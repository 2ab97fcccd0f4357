"""From a reply to a verdict: pure functions of text, without torch or lm-eval."""
