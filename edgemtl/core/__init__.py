"""The vocabulary that the desk and the edge share: plans, bundles, reports and errors. Never PyTorch."""
