"""The functions that the YAML files in tasks/ name: shots, judges, metrics."""
