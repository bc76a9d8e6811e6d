"""Shows what was measured and predicted: tables, pictures and plots."""
