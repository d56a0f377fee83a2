"""Training and measuring reward models."""
