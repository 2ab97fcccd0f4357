"""Conversations to token ids: Mistral's instruct formats, and a folder's own chat template."""
