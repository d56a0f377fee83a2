"""Constitutional AI: a model that criticises and revises its own answers, and prefers between them, by written principles."""
