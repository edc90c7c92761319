"""Shipping, recovering, claiming, collecting, repairing."""
