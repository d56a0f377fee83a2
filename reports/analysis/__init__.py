"""Verdicts, reward hacking, gold reward, samples."""
