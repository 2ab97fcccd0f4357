"""Runs a generated program in isolation and brings back plain data."""
