"""The exact task: a language so small that every completion can be enumerated, so every figure is known exactly."""
