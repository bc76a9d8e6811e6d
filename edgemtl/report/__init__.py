"""Shows what was measured and predicted: tables, pictures, plots and one-file HTML."""
