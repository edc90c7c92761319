"""Files: names, attributes and content as Linux means them."""
