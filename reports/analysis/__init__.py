"""What the numbers say: verdicts, reward hacking, gold reward, samples."""
