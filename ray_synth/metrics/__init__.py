"""Arrays in, numbers out: distances and statistics of image sets. No Ray, disk or model here."""
