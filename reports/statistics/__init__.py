"""Estimates, intervals, comparisons and ratings, on numpy and scipy alone."""
