"""All input and output: processes, ports, files and databases; foreign errors become our own here."""
