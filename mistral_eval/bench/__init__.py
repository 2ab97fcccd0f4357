"""The Mistral 7B paper's efficiency claims, measured on the machine at hand."""
