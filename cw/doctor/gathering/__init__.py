"""Where facts come from: /proc, /sys and the libraries, without any privilege; nothing judges."""
