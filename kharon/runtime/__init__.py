"""The Trio ring: the `Kharon` facade, and the workers that run handlers."""
