"""What every report is made of: tables, plots, and the file or stream they are written to."""
