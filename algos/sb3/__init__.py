"""Stable-Baselines3's agents as contestants."""
