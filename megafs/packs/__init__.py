"""Packs: what travels. Layout and compression; pure."""
