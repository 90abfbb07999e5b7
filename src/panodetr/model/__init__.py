"""The network of the paper: no input, output, loss or metric in here, only torch."""
