"""Does an answer refuse, refuse in part, or comply? A judge without a model."""
