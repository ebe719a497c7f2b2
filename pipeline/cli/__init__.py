"""The commands. Errors become words and exit codes here."""
