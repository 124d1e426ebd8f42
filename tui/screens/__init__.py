"""One file for each view, and for what is laid over them."""
