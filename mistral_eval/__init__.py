"""mistral_eval: the Mistral 7B paper's suite, its protocol and its table."""

__version__ = "0.1.0"
