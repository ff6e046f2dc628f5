"""What the papers print and claim, and whether our runs agree. Imports no torch."""
