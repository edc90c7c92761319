"""Real programs on a real mount: what people use the drive for. Marker ``acceptance``."""
