"""Measures bundles on the device at hand, compares the reports and gates on them."""
