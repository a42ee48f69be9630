"""The report of a QuantJob: front, picture and page."""
