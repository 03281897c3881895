"""The report of a run: its pictures, and one HTML file that opens anywhere."""
