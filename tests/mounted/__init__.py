"""The mounted vault compared, call by call, with what a plain Linux file system answers."""
