"""What people see of a run: sentences by rule, figures, the HTML page, the terminal's tables."""
