"""The networks: plain and residual ones of any depth, and other libraries' to compare with."""
