"""Files of our own: safetensors with the architecture as data."""
