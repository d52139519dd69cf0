"""The rollout viewer: what a policy wrote, step by step, and why it was rewarded as it was."""
