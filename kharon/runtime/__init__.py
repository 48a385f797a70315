"""The Trio ring: the facade that users hold, and the workers that run their handlers."""
