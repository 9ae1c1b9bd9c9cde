"""Users of the directory and programs with a key ask over HTTP, where requests are written."""
