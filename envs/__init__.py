"""What is played: the language model, prompts, rewards, tasks, the token MDP and the meter."""
