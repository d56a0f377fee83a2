"""Text generation as Gymnasium environments, single and vector, with their wrappers and adapters."""
