"""Self-reflection: the model says whether a text is acceptable (Mistral 7B paper, section 5.2)."""
