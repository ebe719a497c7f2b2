"""A run: plan, ask, publish."""
