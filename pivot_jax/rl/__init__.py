"""Online RL: rollouts, rewards, advantages and updates."""
