"""Harmful requests and ordinary ones: what a model refuses, what it should not have refused, and how it says so."""
