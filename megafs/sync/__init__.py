"""Between the committed index and the hosts: ship, recover, repair, collect."""
