"""The networks: plain and residual networks of any depth, and other libraries' networks to compare with."""
