"""The protocol adapter between pyfuse3 and files; nothing else imports pyfuse3."""
