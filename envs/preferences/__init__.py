"""Preference pairs: reading, checking and splitting them."""
