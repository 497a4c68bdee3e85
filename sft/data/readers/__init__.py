"""Files of rows: what kind they are (`kinds`), and how they are read in blocks (`read`)."""
