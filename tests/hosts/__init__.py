"""Tests of megafs.hosts."""
