"""Reports: the folders of any runs, read as plain data and shown side by side on one HTML page."""
