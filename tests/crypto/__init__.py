"""Sealing, keys, recovery words, slot, identity and Merkle tree."""
