"""Balancers whose workers are processes."""
