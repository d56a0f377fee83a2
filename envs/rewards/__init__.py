"""Reward functions: how one is called and checked, and the built-in ones."""
