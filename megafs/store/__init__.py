"""The store: hides packs, copies and hosts behind chunks."""
