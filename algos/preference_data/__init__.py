"""From offline text to tensors: preference pairs, judgments, logged completions, and how they are drawn."""
