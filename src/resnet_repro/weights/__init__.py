"""Other libraries' weights in our networks, and ours in theirs."""
