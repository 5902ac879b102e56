"""Maximise the expected log-joint, by plan."""
