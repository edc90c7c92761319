"""Keys, sealing and signatures. The only package that imports cryptography; pure: bytes in, bytes out."""
