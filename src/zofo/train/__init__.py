"""A run: set up, checked, stepped through, recorded, and taken up again."""
