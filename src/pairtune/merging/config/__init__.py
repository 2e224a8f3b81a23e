"""Merges written down: recipes by layer, YAML files, and mergekit's files."""
