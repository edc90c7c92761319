"""What a thief of the disk, a hostile host or another user may try."""
