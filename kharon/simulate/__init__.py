"""What a recorded history would have been under other settings."""
