"""A tiny language model that the package ships, which continues, critiques and revises reviews."""
