"""Simulation of a recorded history under other settings: record a workload, run it, compare it."""
