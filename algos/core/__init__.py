"""What every algorithm stands on: the contract, the policy, rollouts, the optimizer step, replay and checkpoints."""
