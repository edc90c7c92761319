"""Small true implementations and faults, shared by all tests."""
