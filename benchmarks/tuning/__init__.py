"""Hyperparameter search with Optuna, the same number of trials for each algorithm."""
