"""What a run is: its options, name, folder and record, and who may resume it. Imports no torch."""
