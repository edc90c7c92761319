"""Power cuts and kills at every step of the disk, simulated: see machine for the model, drive for the workload."""
