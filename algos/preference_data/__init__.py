"""From offline text to tensors: preference pairs, judgements, logged completions, and how they are drawn."""
