"""What a report says, a section a file: the results of a run in, a template and what it shows out."""
