"""How good a contestant is: evaluation, judges, text metrics, and what was spent outside the meter."""
