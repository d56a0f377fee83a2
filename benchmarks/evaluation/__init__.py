"""Evaluation of contestants: judges, text metrics, and the audit of what is spent outside the meter."""
