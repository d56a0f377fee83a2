"""A Hugging Face causal language model and its tokenizer: loading, sampling, log-probabilities, padded batches."""
