"""Constitutional AI: a model that criticizes and revises its own answers, and prefers between them, by written principles."""
