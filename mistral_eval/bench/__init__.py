"""The Mistral 7B paper's efficiency claims, measured on this machine."""
