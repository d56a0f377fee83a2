"""Pure maths, tensors in, tensors out: advantages, KL estimators, policy-gradient, preference and value losses."""
