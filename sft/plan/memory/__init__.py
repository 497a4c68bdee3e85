"""What a training step holds in memory, from shapes and settings alone: an itemised bill. No torch."""
