"""Who asks over HTTP: users of the directory by passwords, programs by keys, and how much of it they may."""
