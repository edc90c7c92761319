"""The index: what it promises to the layers above, on a real encrypted file."""
