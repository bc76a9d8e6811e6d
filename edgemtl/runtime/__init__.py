"""The edge: opens a bundle and runs it. numpy and one inference runtime; PyTorch never."""
