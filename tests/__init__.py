"""The tests of MegaFS."""
