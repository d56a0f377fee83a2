"""Plain Stable-Baselines3 code: its PPO learns to complete prompts."""

import gymnasium
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy

from bakeoff.envs import SB3VecEnv, VectorTopTokens

envs = gymnasium.make_vec(
    "bakeoff.envs:bakeoff/TextGeneration-v0", num_envs=64, task="exact", autoreset_mode="SameStep"
)
envs = SB3VecEnv(VectorTopTokens(envs, k=8))  # 8 actions per state; observations are hidden states
agent = PPO("MlpPolicy", envs, n_steps=5, batch_size=80, learning_rate=1e-3, gamma=1.0, ent_coef=0.3, seed=0)
before, _ = evaluate_policy(agent, envs, n_eval_episodes=256, deterministic=False, warn=False)
agent.learn(15_000)
after, _ = evaluate_policy(agent, envs, n_eval_episodes=256, deterministic=False, warn=False)
print(f"mean return before {before:.2f}, after {after:.2f}")
